"""Checkpoints become functions from arrays to features."""

from jaxcal import lazy

__all__ = [
    "captions", "checkpoint", "cleaning", "encoder", "hugging_face",
    "last_blocks", "layout", "open_clip", "prefix", "preprocess", "prompts",
    "resnet", "siglip", "sizes", "tokenizers", "towers", "weights"
]

__getattr__, __dir__ = lazy.modules(__name__, __all__)
