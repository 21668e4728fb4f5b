"""Predictions become tables, figures and pages; runs are measured anew."""

from jaxcal import lazy

__all__ = ["compared", "few_shot", "figures", "foreign", "formats",
           "from_files", "inputs", "measured", "page", "posterior",
           "prediction_sets", "published", "ranked", "ranking", "recalibrated",
           "redrawn", "saved_runs", "summary", "sweeps", "tables"]

__getattr__, __dir__ = lazy.modules(__name__, __all__)
