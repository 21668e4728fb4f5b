"""Recalibration: fitted to logits and labels after training, then applied."""

from jaxcal import lazy

__all__ = ["base", "calibrators", "predicted", "temperature"]

__getattr__, __dir__ = lazy.modules(__name__, __all__)
