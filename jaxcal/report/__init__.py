"""Predictions become tables, figures and pages; runs are measured anew."""

from jaxcal import lazy

__all__ = ["aggregate", "along_stream", "compared", "diagnosis", "few_shot",
           "figures", "foreign", "formats", "from_files", "inputs",
           "joined_runs", "measured", "over_orders", "page", "per_image",
           "posterior", "prediction_sets", "prototypes", "published", "ranked",
           "ranking", "recalibrated", "redrawn", "repaired", "resampled",
           "saved_runs", "scores", "sections", "seeds", "summary", "sweeps",
           "tables", "thumbnails"]

__getattr__, __dir__ = lazy.modules(__name__, __all__)
