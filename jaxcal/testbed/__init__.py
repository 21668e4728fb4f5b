"""A small CLIP and its image sets, shipped with the package."""

from jaxcal import lazy

__all__ = [
    "captions",
    "digits",
    "export",
    "outlines",
    "pairs",
    "scenes",
    "sets",
    "shipped",
    "tokenizer",
    "train",
    "variant",
]

__getattr__, __dir__ = lazy.modules(__name__, __all__)
