"""Test-time prompt tuning: a context for every image."""

from jaxcal import lazy

__all__ = ["bayesian", "dynamic", "engine", "family", "flatness", "methods",
           "pretraining", "published", "reliability", "rewards"]

__getattr__, __dir__ = lazy.modules(__name__, __all__)
