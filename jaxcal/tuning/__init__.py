"""Few-shot tuning: methods as pure functions, and one loop that trains them."""

from jaxcal import lazy

__all__ = [
    "classes",
    "clip_adapter",
    "cocoop",
    "coop",
    "dor",
    "initial",
    "kgcoop",
    "logit_range",
    "maple",
    "method",
    "methods",
    "outliers",
    "presets",
    "prograd",
    "promptsrc",
    "protocol",
    "taskres",
    "tip_adapter",
    "training",
    "two_towers",
]

__getattr__, __dir__ = lazy.modules(__name__, __all__)
