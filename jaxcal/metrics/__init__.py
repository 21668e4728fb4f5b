"""Calibration errors, proper scores and their intervals, from arrays."""

from jaxcal import lazy

__all__ = [
    "binning",
    "calibration",
    "examples",
    "scoring",
    "selective",
    "statistics",
]

__getattr__, __dir__ = lazy.modules(__name__, __all__)
