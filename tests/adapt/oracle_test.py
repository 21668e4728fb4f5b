"""Tuning against numbers that the released programs computed in float64.

Every image, every stage: entropies, selected views, regularisers, gradients,
tuned contexts and final logits of a tiny random CLIP.
"""

import dataclasses
import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.adapt import engine
from jaxcal.adapt import objectives
from jaxcal.clip import checkpoint
from jaxcal.clip import prompts
from jaxcal.clip import towers
from jaxcal.losses import entropy
from tests import shared

# Our method and its settings, by the name that the numbers are stored under.
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
_CASES = [
    dict(testcase_name=f"{stored}_{k}_classes", stored=stored, k=k)
    for k in (5, 12) for stored in _METHODS]


class OracleTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    folder = shared.folder("oracles/tpt")
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
    return prompts.context_encoder(self.model.config, self.params, bank)

  def _prepared(self, k):
    return engine.prepare(
        self._encode(k), jnp.asarray(self.oracle[f"K{k}/ctx0/f64"]),
        jnp.asarray(self.oracle[f"K{k}/logit_scale_exp/f64"]))

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
    name, settings = _METHODS[stored]
    method = objectives.method(name, **settings)
    prepared, encode = self._prepared(k), self._encode(k)
    selected = self._stored(k, stored, "selected")
    for image, views in enumerate(self._views(k)):
      logits = prepared.logit_scale * views @ prepared.text_features.T
      np.testing.assert_allclose(
          logits, self._stored(k, stored, "view_logits")[image], atol=1e-9)
      np.testing.assert_allclose(
          entropy.prediction_entropy(logits),
          self._stored(k, stored, "view_entropy")[image], atol=1e-9)
      kept = entropy.confident_views(logits, 0.25)
      self.assertCountEqual(np.flatnonzero(kept), selected[image])
      step = engine.tuning_step(
          encode, prepared.context, views, kept, prepared.logit_scale, method)
      self._assert_step(step, k, stored, image, 0)

  def _assert_step(self, step, k, stored, image, index):
    at = lambda name: self._stored(k, stored, name)[image, index]
    np.testing.assert_allclose(step.entropy, at("loss_entropy"), atol=1e-9)
    if f"K{k}/{stored}/f64/reg" in self.oracle.files:
      np.testing.assert_allclose(step.regulariser, at("reg"), atol=1e-9)
      np.testing.assert_allclose(step.weight, at("reg_weight"), rtol=1e-9)
    np.testing.assert_allclose(
        step.entropy + step.weight * step.regulariser, at("loss_total"),
        rtol=1e-9)
    scale = np.abs(at("grad")).max()
    np.testing.assert_allclose(
        step.gradient, at("grad"), atol=1e-8 * scale, rtol=0)

  @parameterized.named_parameters(*_CASES)
  def test_answers(self, stored, k):
    name, settings = _METHODS[stored]
    self._assert_adapted(objectives.method(name, **settings), stored, k)

  @parameterized.named_parameters(
      dict(testcase_name=f"{stored}_{k}", stored=stored, k=k)
      for k in (5, 12) for stored in ("tpt_2step", "ctpt_2step"))
  def test_two_steps(self, stored, k):
    name, settings = _METHODS[stored.removesuffix("_2step")]
    method = dataclasses.replace(
        objectives.method(name, **settings), num_steps=2)
    self._assert_adapted(method, stored, k)

  def _assert_adapted(self, method, stored, k):
    adapt = functools.partial(
        engine.adapt, optimizer=engine.default_optimizer(),
        selection_fraction=0.25)
    # Not compiled: with three images, compiling would take most of the time.
    adapted = jax.vmap(adapt, in_axes=(None, None, 0, None))(
        self._encode(k), self._prepared(k), self._views(k), method)
    np.testing.assert_allclose(
        adapted.logits, self._stored(k, stored, "final_logits"), atol=1e-7)
    if method.num_steps:
      np.testing.assert_allclose(
          adapted.context, self._stored(k, stored, "ctx")[:, -1], atol=1e-9)
      np.testing.assert_allclose(
          adapted.info.entropy_before,
          self._stored(k, stored, "loss_entropy")[:, 0], atol=1e-9)


if __name__ == "__main__":
  absltest.main()
