"""A model of a few numbers, from the released code's or from random ones."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.posterior import laplace
from jaxcal.posterior import model
from jaxcal.typing import Pooled
from tests import shared

CASES = (("clip", "clip"), ("siglip", "siglip"))


def oracle(case):
  """From a name to an array of the released code, for "clip" or "siglip"."""
  arrays = shared.arrays("oracles/bayesvlm/bayesvlm_oracle.npz")

  def get(key, default=None):
    found = f"{case}.{key}"
    return arrays[found] if found in arrays or default is None else default

  get.has = lambda key: f"{case}.{key}" in arrays
  return get


def released(case):
  """The model, the pool and the target images of the released code's run."""
  get = oracle(case)
  bias = get("b_img") if get.has("b_img") else None
  layers = [laplace.Layer(get(f"A_inv_{side}"), get(f"B_inv_{side}"))
            for side in ("img", "txt")]
  images = [
      Pooled(get(f"{name}_act"),
             get(f"{name}_res") if get.has(f"{name}_res") else None)
      for name in ("pool", "test")]
  return jax.tree.map(_float, (model.Model(
      model.with_bias(get("W_img").T, bias), get("cls_act"),
      get("cls_embeds"), laplace.Posterior(*layers), np.exp(get("scale")),
      get("bias") if bias is not None else None), *images))


def labels(case):
  """Of the pool and of the target images."""
  return tuple(jnp.asarray(oracle(case)(name), jnp.int32)
               for name in ("pool_labels", "labels"))


def random(seed=0, *, p=5, d=4, k=3, w=3, bias=True, pool=12, targets=6,
           scale=5.0):
  """A random model with pool and targets; residuals where it has a bias."""
  rng = np.random.default_rng(seed)
  q = p + bias

  def covariance(size):
    root = rng.standard_normal((size, 2 * size))
    return 0.3 * root @ root.T / (2 * size)

  layers = [laplace.Layer(covariance(rows), covariance(d)) for rows in (q, w)]
  inputs = [
      Pooled(rng.standard_normal((n, p)),
             rng.standard_normal((n, d)) if bias else None)
      for n in (pool, targets)]
  return jax.tree.map(_float, (model.Model(
      rng.standard_normal((q, d)), rng.standard_normal((k, w)),
      rng.standard_normal((k, d)), laplace.Posterior(*layers),
      np.asarray(scale)), *inputs))


def _float(x):
  return jax.device_put(np.asarray(
      x, np.float64 if jax.config.jax_enable_x64 else np.float32))
