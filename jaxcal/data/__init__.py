"""Files become fixed-shape batches of views."""

from jaxcal import lazy

__all__ = [
    "aircraft",
    "augmix",
    "catalogue",
    "check",
    "check_files",
    "check_lists",
    "cifar",
    "class_names",
    "contents",
    "coop",
    "decoding",
    "findings",
    "folders",
    "image_set",
    "load",
    "pairs",
    "pipeline",
    "screening",
    "sources",
    "text_files",
    "tfds",
    "views",
]

__getattr__, __dir__ = lazy.modules(__name__, __all__)
