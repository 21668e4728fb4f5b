"""Test-time adaptation: what is done with unlabelled test images."""

from jaxcal import lazy

__all__ = ["base", "cache", "classifier", "contract", "graph", "low_rank",
           "memory", "methods", "modes", "numbers", "orders", "per_set",
           "places", "prompt", "prototypes", "run", "shifts", "votes"]

__getattr__, __dir__ = lazy.modules(__name__, __all__)
