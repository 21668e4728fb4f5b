"""Test-time prompt tuning of one unlabelled image."""

from jaxcal import lazy

__all__ = ["bayesian", "engine", "flatness", "objectives", "settings"]

__getattr__, __dir__ = lazy.modules(__name__, __all__)
