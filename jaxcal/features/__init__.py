"""What the image tower saw, kept on disk for every method and sweep."""

from jaxcal import lazy

__all__ = ["encoding", "extract", "fill", "pooled", "sources", "store"]

__getattr__, __dir__ = lazy.modules(__name__, __all__)
