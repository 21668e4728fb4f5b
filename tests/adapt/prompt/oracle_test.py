"""Tuning against numbers that the released programs computed in float64.

Every image, every stage: entropies, selected views, regularisers, gradients,
tuned contexts and final logits of a tiny random CLIP.
"""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np

from jaxcal.adapt import methods
from jaxcal.adapt.prompt import engine
from jaxcal.adapt.prompt import family
from jaxcal.adapt.prompt import methods as prompt_methods
from jaxcal.clip import towers
from jaxcal.losses import entropy
from tests.adapt.prompt import tower

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
_begin = jax.jit(jax.vmap(
    lambda prepared, views: engine.begin(prepared, views, 0.25), (None, 0)))
_adapt = jax.jit(jax.vmap(
    lambda encode, prepared, views, method: engine.adapt(
        encode, prepared, views, method, selection_fraction=0.25,
        optimiser=prompt_methods.Tpt().optimiser), (None, None, 0, None)))
_adapted = jax.jit(jax.vmap(family.adapt, (None, 0)))


@functools.cache
def _image_features():
  return jax.jit(functools.partial(towers.image_features, *tower.model()))


@functools.cache
def _prepared_at_start(k, linearisation="vjp"):
  return _prepared(k, tower.oracle()[f"K{k}/ctx0/f64"], linearisation)


def _prepared(k, context, linearisation="vjp"):
  scale = tower.oracle()[f"K{k}/logit_scale_exp/f64"]
  return _prepare(
      tower.encoder(k), context, scale, linearisation=linearisation)


@functools.cache
def _starts(k):
  """What the first step of each image shares."""
  return jax.tree.map(np.asarray, _begin(_prepared_at_start(k), tower.views(k)))


def _stored(k, stored, name):
  return tower.oracle()[f"K{k}/{stored}/f64/{name}"]


class OracleTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    tower.oracle()  # is there at all
    self.enterContext(jax.enable_x64(True))

  @parameterized.parameters(5, 12)
  def test_features(self, k):
    np.testing.assert_allclose(
        _prepared_at_start(k).text_features,
        tower.oracle()[f"K{k}/text_features0/f64"], atol=1e-12)
    pixels = tower.oracle()[f"K{k}/pixels"].transpose(0, 1, 3, 4, 2)
    for image, expected in zip(np.float64(pixels), tower.views(k)):
      np.testing.assert_allclose(
          _image_features()(image), expected, atol=1e-12)

  @parameterized.named_parameters(*(c for c in _CASES if c["stored"] !=
                                    "zeroshot"))
  def test_first_step(self, stored, k):
    prepared = _prepared_at_start(k)
    logits = np.asarray(prepared.logit_scale) * tower.views(k) @ np.asarray(
        prepared.text_features).T
    np.testing.assert_allclose(
        logits, _stored(k, stored, "view_logits"), atol=1e-9)
    np.testing.assert_allclose(
        entropy.prediction_entropy(logits), _stored(k, stored, "view_entropy"),
        atol=1e-9)
    selected, starts = _stored(k, stored, "selected"), _starts(k)
    first = engine.penalty(prepared, _ALL[stored].objective())
    for image, rows in enumerate(selected):
      start = jax.tree.map(lambda x, i=image: x[i], starts)
      self.assertCountEqual(np.flatnonzero(start.kept), rows)
      self._assert_step(start, first, k, stored, image, 0)

  @parameterized.named_parameters(
      dict(testcase_name=f"{stored}_{k}", stored=stored, k=k)
      for k in (5, 12) for stored in _TWO_STEPS)
  def test_second_step(self, stored, k):
    for image, views in enumerate(tower.views(k)):
      prepared = _prepared(k, _stored(k, stored, "ctx")[image, 0])
      kept = np.isin(np.arange(len(views)),
                     _stored(k, stored, "selected")[image])
      self._assert_step(
          engine.entropy_at(prepared, views, kept),
          engine.penalty(prepared, _ALL[stored].objective()),
          k, stored, image, 1)

  def _assert_step(self, start, first, k, stored, image, number):
    at = lambda name: _stored(k, stored, name)[image, number]
    step = jax.tree.map(np.asarray, engine.combine(
        _ALL[stored].objective(), start, first, number))
    total = 0
    if np.isfinite(at("loss_entropy")):
      np.testing.assert_allclose(start.entropy, at("loss_entropy"), atol=1e-9)
      total += np.asarray(start.entropy)
    if f"K{k}/{stored}/f64/reg" in tower.oracle():
      np.testing.assert_allclose(first.value, at("reg"), atol=1e-9)
      np.testing.assert_allclose(step.weight, at("reg_weight"), rtol=1e-9)
      total += step.weight * np.asarray(first.value)
    np.testing.assert_allclose(total, at("loss_total"), rtol=1e-9)
    scale = np.abs(at("grad")).max()
    np.testing.assert_allclose(
        step.gradient, at("grad"), atol=1e-9 * scale, rtol=0)

  @parameterized.parameters((5, "vjp"), (12, "jacobian"))
  def test_predictions(self, k, linearisation):
    prepared = _prepared_at_start(k, linearisation)
    found = _adapted(
        family.share(tower.encoder(k), prepared, _ALL), tower.views(k))
    for stored, adapted in found.items():
      with self.subTest(stored):
        self._assert_adapted(adapted, stored, k)

  def test_one_method_alone(self, k=5):
    adapted = _adapt(tower.encoder(k), _prepared_at_start(k), tower.views(k),
                     _ALL["soc_const"].objective())
    self._assert_adapted(adapted, "soc_const", k)

  def _assert_adapted(self, adapted, stored, k):
    np.testing.assert_allclose(
        adapted.logits, _stored(k, stored, "final_logits"), atol=1e-8)
    if _ALL[stored].objective().num_steps:
      np.testing.assert_allclose(
          adapted.context, _stored(k, stored, "ctx")[:, -1], atol=1e-9)
      np.testing.assert_allclose(
          adapted.info.entropy_before,
          _stored(k, stored, "loss_entropy")[:, 0], atol=1e-9)


if __name__ == "__main__":
  absltest.main()
