"""Test-time prompt tuning: a context for every image."""

from jaxcal import lazy

__all__ = ["bayesian", "engine", "family", "flatness", "methods", "pretraining",
           "published"]

__getattr__, __dir__ = lazy.modules(__name__, __all__)
