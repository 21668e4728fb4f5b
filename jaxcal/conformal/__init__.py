"""Conformal prediction: sets of classes with a promised coverage."""

from jaxcal import lazy

__all__ = [
    "clustered",
    "coverage",
    "full",
    "predicted",
    "scores",
    "split",
    "transductive",
]

__getattr__, __dir__ = lazy.modules(__name__, __all__)
