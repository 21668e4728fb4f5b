"""Few-shot tuning: methods as pure functions, and one loop that trains them."""

from jaxcal import lazy

__all__ = [
    "adapters",
    "checkpoint",
    "classes",
    "clip_adapter",
    "cocoop",
    "coop",
    "dor",
    "evidence",
    "fit",
    "images",
    "initial",
    "kgcoop",
    "logit_range",
    "maple",
    "method",
    "methods",
    "outliers",
    "predict",
    "presets",
    "prograd",
    "promptsrc",
    "protocol",
    "saved",
    "task",
    "taskres",
    "tip_adapter",
    "training",
    "two_towers",
    "units",
    "vocabulary",
]

__getattr__, __dir__ = lazy.modules(__name__, __all__)
