"""Files that appear whole or not at all, and folders of one run at a time."""

from jaxcal import lazy

__all__ = ["arrays", "atomic", "damage", "identity", "lock", "output_folder",
           "pair", "paths", "process", "pytree"]

__getattr__, __dir__ = lazy.modules(__name__, __all__)
