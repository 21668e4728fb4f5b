"""Recalibration: after training, predictions become better calibrated ones."""

from jaxcal import lazy

__all__ = ["base", "binned", "calibrators", "chain", "cots", "dac", "examples",
           "isotonic", "matrix", "predicted", "probabilities", "procal",
           "sals", "temperature", "top_label", "vector"]

__getattr__, __dir__ = lazy.modules(__name__, __all__)
