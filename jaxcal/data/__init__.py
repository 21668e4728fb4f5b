"""Files become fixed-shape batches of views."""

from jaxcal import lazy

__all__ = [
    "aircraft",
    "augmix",
    "catalogue",
    "contents",
    "coop",
    "image_set",
    "load",
    "pairs",
    "pipeline",
    "sources",
    "tfds",
    "views",
]

__getattr__, __dir__ = lazy.modules(__name__, __all__)
