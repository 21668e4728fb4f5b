"""Tuning against numbers that the released programs computed in float64.

Every image, every stage: entropies, selected views, regularisers, gradients,
tuned contexts and final logits of a tiny random CLIP.
"""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.adapt import methods
from jaxcal.adapt.prompt import engine
from jaxcal.adapt.prompt import family
from jaxcal.adapt.prompt import methods as prompt_methods
from jaxcal.clip import checkpoint
from jaxcal.clip import prefix
from jaxcal.clip import prompts
from jaxcal.clip import towers
from jaxcal.losses import entropy
from tests import shared

# Our method and its numbers, by the name that the numbers are stored under.
_METHODS = {
    "zeroshot": ("zero_shot", {}),
    "tpt": ("tpt", {}),
    "ctpt": ("c_tpt", {"weight": 50.0}),
    "otpt": ("o_tpt", {"weight": 18.0}),
    "atpt": ("a_tpt", {"weight": 10.0}),
    "atpt_inverted": ("a_tpt_inverted", {"weight": 10.0}),
    "soc_const": ("soc", {"weight": 30.0, "delta": 0.5}),
    "soc_quantile": ("soc_quantile", {"weight": 30.0}),
}
# Those with two steps, of which the last one lets the parts take turns.
_TWO_STEPS = {
    "tpt_2step": ("tpt", {"num_steps": 2}),
    "ctpt_2step": ("c_tpt", {"num_steps": 2}),
    "ctpt_two_step": ("c_tpt_two_step", {}),
}
_ALL = {stored: methods.method(name, selection_fraction=0.25, **numbers)
        for stored, (name, numbers) in (_METHODS | _TWO_STEPS).items()}
_CASES = [
    dict(testcase_name=f"{stored}_{k}_classes", stored=stored, k=k)
    for k in (5, 12) for stored in _ALL]


# Compiled once for all tests; eager, every call would compile its scans anew.
_prepare = jax.jit(engine.prepare, static_argnames="linearisation")
_begin = jax.jit(engine.begin, static_argnums=2)
_adapt = jax.jit(jax.vmap(
    lambda encode, prepared, views, method: engine.adapt(
        encode, prepared, views, method, selection_fraction=0.25,
        optimiser=prompt_methods.Tpt().optimiser), (None, None, 0, None)))
_adapted = jax.jit(jax.vmap(family.adapt, (None, 0)))


class OracleTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    folder = shared.path("oracles/tpt")
    self.oracle = np.load(folder / "tpt_oracle.npz", allow_pickle=False)
    self.model = checkpoint.load(folder / "hf_clip_tiny")
    self.enterContext(jax.enable_x64(True))
    self.params = jax.tree.map(
        lambda x: jnp.asarray(x, jnp.float64), self.model.params)

  def _encode(self, k):
    ids = self.oracle[f"K{k}/input_ids"]
    positions = np.broadcast_to(np.arange(1, 5), (k, 4))
    bank = prompts.from_token_ids(
        ids, positions, self.oracle[f"K{k}/eot_index"])
    return prefix.context_encoder(
        self.model.config, self.params, bank, max_groups=1)

  def _prepared(self, k, context=None, linearisation="vjp"):
    context = self.oracle[f"K{k}/ctx0/f64"] if context is None else context
    return _prepare(
        self._encode(k), jnp.asarray(context),
        jnp.asarray(self.oracle[f"K{k}/logit_scale_exp/f64"]),
        linearisation=linearisation)

  def _views(self, k):
    return jnp.asarray(self.oracle[f"K{k}/image_features/f64"])

  def _stored(self, k, stored, name):
    return self.oracle[f"K{k}/{stored}/f64/{name}"]

  @parameterized.parameters(5, 12)
  def test_features(self, k):
    np.testing.assert_allclose(
        self._prepared(k).text_features,
        self.oracle[f"K{k}/text_features0/f64"], atol=1e-12)
    pixels = self.oracle[f"K{k}/pixels"].transpose(0, 1, 3, 4, 2)
    encode = functools.partial(
        towers.image_features, self.model.config, self.params)
    np.testing.assert_allclose(
        jax.vmap(encode)(jnp.asarray(pixels, jnp.float64)),
        self.oracle[f"K{k}/image_features/f64"], atol=1e-12)

  @parameterized.named_parameters(*(c for c in _CASES if c["stored"] !=
                                    "zeroshot"))
  def test_first_step(self, stored, k):
    method, prepared = _ALL[stored].objective(), self._prepared(k)
    selected = self._stored(k, stored, "selected")
    for image, views in enumerate(self._views(k)):
      logits = prepared.logit_scale * views @ prepared.text_features.T
      np.testing.assert_allclose(
          logits, self._stored(k, stored, "view_logits")[image], atol=1e-9)
      np.testing.assert_allclose(
          entropy.prediction_entropy(logits),
          self._stored(k, stored, "view_entropy")[image], atol=1e-9)
      start = _begin(prepared, views, 0.25)
      self.assertCountEqual(np.flatnonzero(start.kept), selected[image])
      self._assert_step(prepared, method, start, k, stored, image, 0)

  @parameterized.named_parameters(
      dict(testcase_name=f"{stored}_{k}", stored=stored, k=k)
      for k in (5, 12) for stored in _TWO_STEPS)
  def test_second_step(self, stored, k):
    for image, views in enumerate(self._views(k)):
      prepared = self._prepared(k, self._stored(k, stored, "ctx")[image, 0])
      kept = jnp.zeros(len(views), bool).at[
          self._stored(k, stored, "selected")[image]].set(True)
      start = engine.entropy_at(prepared, views, kept)
      self._assert_step(
          prepared, _ALL[stored].objective(), start, k, stored, image, 1)

  def _assert_step(self, prepared, method, start, k, stored, image, number):
    at = lambda name: self._stored(k, stored, name)[image, number]
    first = engine.penalty(prepared, method)
    step = engine.combine(method, start, first, number)
    total = 0
    if np.isfinite(at("loss_entropy")):
      np.testing.assert_allclose(start.entropy, at("loss_entropy"), atol=1e-9)
      total += start.entropy
    if f"K{k}/{stored}/f64/reg" in self.oracle.files:
      np.testing.assert_allclose(first.value, at("reg"), atol=1e-9)
      np.testing.assert_allclose(step.weight, at("reg_weight"), rtol=1e-9)
      total += step.weight * first.value
    np.testing.assert_allclose(total, at("loss_total"), rtol=1e-9)
    scale = np.abs(at("grad")).max()
    np.testing.assert_allclose(
        step.gradient, at("grad"), atol=1e-9 * scale, rtol=0)

  @parameterized.parameters((5, "vjp"), (12, "jacobian"))
  def test_predictions(self, k, linearisation):
    prepared = self._prepared(k, linearisation=linearisation)
    found = _adapted(family.share(self._encode(k), prepared, _ALL),
                     self._views(k))
    for stored, adapted in found.items():
      with self.subTest(stored):
        self._assert_adapted(adapted, stored, k)

  def test_one_method_alone(self, k=5):
    adapted = _adapt(self._encode(k), self._prepared(k), self._views(k),
                     _ALL["soc_const"].objective())
    self._assert_adapted(adapted, "soc_const", k)

  def _assert_adapted(self, adapted, stored, k):
    np.testing.assert_allclose(
        adapted.logits, self._stored(k, stored, "final_logits"), atol=1e-8)
    if _ALL[stored].objective().num_steps:
      np.testing.assert_allclose(
          adapted.context, self._stored(k, stored, "ctx")[:, -1], atol=1e-9)
      np.testing.assert_allclose(
          adapted.info.entropy_before,
          self._stored(k, stored, "loss_entropy")[:, 0], atol=1e-9)


if __name__ == "__main__":
  absltest.main()
