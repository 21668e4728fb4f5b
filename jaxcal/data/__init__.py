"""Files become fixed-shape batches of views."""

from jaxcal import lazy

__all__ = [
    "aircraft",
    "archives",
    "augmix",
    "catalogue",
    "check",
    "check_files",
    "check_lists",
    "cifar",
    "class_names",
    "contents",
    "coop",
    "corruptions",
    "corruptions_on_device",
    "corruptions_on_host",
    "decoding",
    "domains",
    "findings",
    "folders",
    "image_set",
    "labelled_tars",
    "large_images",
    "layouts",
    "load",
    "pairs",
    "parquet_files",
    "pipeline",
    "prepare",
    "screening",
    "sources",
    "text_files",
    "text_lists",
    "tfds",
    "views",
]

__getattr__, __dir__ = lazy.modules(__name__, __all__)
