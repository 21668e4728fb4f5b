"""Laplace posteriors over the last projections of CLIP-style models."""

from jaxcal import lazy

__all__ = [
    "acquisition",
    "curvature",
    "files",
    "finetuning",
    "fit",
    "head",
    "inputs",
    "laplace",
    "marginal",
    "model",
    "neighbours",
    "online",
    "predictive",
    "released",
    "select",
    "selection",
]

__getattr__, __dir__ = lazy.modules(__name__, __all__)
