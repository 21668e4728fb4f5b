"""Entropies and regularisers: pure functions of one example's arrays."""

from jaxcal import lazy

__all__ = [
    "angular",
    "cosines",
    "deviation",
    "dispersion",
    "entropy",
    "logit_range",
    "orthogonality",
    "rewards",
]

__getattr__, __dir__ = lazy.modules(__name__, __all__)
