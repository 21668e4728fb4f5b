"""Predictions become tables, figures and pages."""

from jaxcal import lazy

__all__ = ["figures", "inputs", "page", "summary", "tables"]

__getattr__, __dir__ = lazy.modules(__name__, __all__)
