"""Gaussian posteriors over the last projections of a CLIP-style model.

Baumann et al., Post-hoc Probabilistic Vision-Language Models, ICLR 2026
(BayesVLM).
"""

from typing import NamedTuple

from jaxcal.typing import Array
from jaxcal.typing import Float


class Layer(NamedTuple):
  """Gaussian around the kernel W [p d] of one linear map.

  Cov(W_jk, W_lm) = a_inv[j, l] * b_inv[k, m]. A bias is the last row of the
  kernel, so `a_inv` is then one wider than the input of the map.

  Attributes:
    a_inv: Covariance over the inputs.
    b_inv: Covariance over the outputs.
  """

  a_inv: Float[Array, "p p"]
  b_inv: Float[Array, "d d"]


class Posterior(NamedTuple):
  """The two towers' last maps, independent of each other."""

  image: Layer
  text: Layer
