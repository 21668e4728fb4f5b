"""Checkpoints become functions from arrays to features."""

from jaxcal import lazy

__all__ = [
    "captions", "checkpoint", "encoder", "layout", "open_clip", "prefix",
    "preprocess", "prompts", "resnet", "siglip", "towers"
]

__getattr__, __dir__ = lazy.modules(__name__, __all__)
