"""Files that appear whole or not at all."""

from jaxcal import lazy

__all__ = ["atomic", "identity", "pytree"]

__getattr__, __dir__ = lazy.modules(__name__, __all__)
