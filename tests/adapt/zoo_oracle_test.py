"""Methods on features against numbers of the released programs, in float64."""

import functools
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import numpy as np

from jaxcal.adapt import base
from jaxcal.adapt import cache
from jaxcal.adapt import classifier
from jaxcal.adapt import graph
from jaxcal.adapt import memory
from jaxcal.adapt import modes
from jaxcal.adapt import prototypes
from jaxcal.adapt import run
from jaxcal.adapt import shifts
from jaxcal.adapt import votes
from jaxcal.adapt.prompt import methods
from tests import shared

_TPS = {name: shifts.Tps(selection_fraction=0.25, **more) for name, more in (
    ("tps_imagenet", {}), ("tps_fine", {"learning_rate": 1e-3}),
    ("tps_fine_2step", {"learning_rate": 1e-3, "num_steps": 2}))}
_TDA = {"tda_DTD": cache.Tda(alpha=2.0, beta=3.0),
        "tda_eurosat": cache.Tda(alpha=4.0, beta=8.0)}

_ONZETA = {"onzeta_A": classifier.OnZeta(),
           "onzeta_DTD": classifier.OnZeta(beta=0.4),
           "onzeta_Caltech101": classifier.OnZeta(beta=0.4, balance=0.0)}

_BOOST = {
    "boostadapter_Caltech101": cache.BoostAdapter(
        alpha=5.0, beta=5.0, extra_capacity=2, selection_fraction=0.25),
    "boostadapter_DTD": cache.BoostAdapter(
        alpha=2.0, beta=3.0, extra_capacity=0, selection_fraction=0.25)}
_DPE = {
    f"{prefix}_{name}": prototypes.Dpe(
        selection_fraction=0.25, entropy_gradient=prefix != "dpe", **more)
    for prefix in ("dpe", "dpe_textgrad") for name, more in (
        ("DTD", dict(alpha=6.0, beta=3.0, learning_rate=6e-4, alignment=0.2)),
        ("A", dict(alpha=6.0, beta=5.0, learning_rate=3e-4, alignment=2.5,
                   predicted="confident")),
        ("R", dict(alpha=3.0, beta=8.0, learning_rate=6e-4, alignment=0.0)))}
_DMN = {f"{name}_len{capacity}": kind(capacity=capacity, **more)
        for name, kind, more in (
            ("dmn", memory.Dmn, {"selection_fraction": 0.25}),
            ("dmn_weak", memory.DmnWeak, {})) for capacity in (4, 50)}

_episodic = jax.jit(run.episodic)
_stream = jax.jit(run.stream)
_tuned = jax.jit(jax.vmap(shifts.tuned, (None, None, 0)))


@functools.cache
def _oracle():
  with np.load(shared.path("oracles/zoo") / "zoo_oracle.npz",
               allow_pickle=False) as oracle:
    return dict(oracle)


class ZooOracleTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.oracle = _oracle()
    self.enterContext(jax.enable_x64(True))
    self.task = base.Task(
        self.oracle["text"], np.float64(self.oracle["logit_scale"]),
        num_images=60)
    self.views, self.orders = self.oracle["views"], self.oracle["orders"]

  def _each(self, numbers):
    return _episodic(numbers.method(), self.task, self.views)

  def test_zero_shot(self):
    np.testing.assert_allclose(
        self._each(methods.ZeroShot(selection_fraction=0.25)).scores,
        self.oracle["zeroshot/logits"], atol=1e-9)

  def test_mta(self):
    outputs = self._each(modes.Mta())
    np.testing.assert_allclose(
        outputs.scores, self.oracle["mta/logits"], atol=1e-9)
    weights = self.oracle["mta/weighted_density"]
    np.testing.assert_allclose(
        outputs.info["clean_view_weight"], weights[:, 0] / weights.sum(1),
        atol=1e-9)

  @parameterized.product(
      stored=(("zero", 0.3), ("zero_gamma013", 0.13)),
      fallback=votes.FALLBACKS)
  def test_zero(self, stored, fallback):
    # No image here has a tie that the views left out do not break.
    name, share = stored
    outputs = self._each(
        votes.Zero(selection_fraction=share, fallback=fallback))
    np.testing.assert_array_equal(
        outputs.scores, self.oracle[f"{name}/output"])
    votes_cast = self.oracle[f"{name}/output"]
    np.testing.assert_allclose(
        np.exp(outputs.log_probs),
        (votes_cast + 1 / 7) / (votes_cast.sum(1, keepdims=True) + 1),
        atol=1e-12)

  @parameterized.parameters(*_TPS)
  def test_tps(self, name):
    np.testing.assert_allclose(
        self._each(_TPS[name]).scores, self.oracle[f"{name}/logits"], atol=1e-9)
    shift, _ = _tuned(_TPS[name], self.task, self.views[:6])
    np.testing.assert_allclose(
        shift, self.oracle[f"{name}/shift"], atol=1e-9)

  def _along(self, numbers):
    """States at the end of three streams, and outputs by image."""
    method = numbers.method()
    states, outputs = run.advance(
        method, self.task, run.begin(method, self.task, 3), self.views,
        self.orders)
    back = np.argsort(self.orders, axis=1)
    return jax.tree.map(np.asarray, states), jax.tree.map(
        lambda x: np.stack([
            one[row] for one, row in zip(np.asarray(x), back)]), outputs)

  def _stored(self, name, key):
    """Of three orders."""
    return np.stack([self.oracle[f"{name}/order{r}/{key}"] for r in range(3)])

  def _assert_equal(self, ours, name, key, atol=1e-9):
    np.testing.assert_allclose(
        ours, self._stored(name, key), atol=atol, err_msg=f"{name}: {key}")

  @parameterized.parameters(*_ONZETA)
  def test_onzeta(self, name):
    states, outputs = self._along(_ONZETA[name])
    self._assert_equal(outputs.scores, name, "probs")
    self._assert_equal(np.exp(outputs.log_probs), name, "probs")
    self._assert_equal(states.proxies, name, "state_w")
    self._assert_equal(states.duals, name, "state_rho")

  @parameterized.parameters(*_DMN)
  def test_dmn(self, name):
    states, outputs = self._along(_DMN[name])
    self._assert_equal(outputs.scores, name, "output")
    np.testing.assert_allclose(
        np.exp(outputs.log_probs), outputs.scores / 2, atol=1e-12)
    filled = np.isfinite(states.memory.entropy)
    np.testing.assert_array_equal(
        filled.sum(-1), self._stored(name, "state_count"))
    if name.endswith("len4"):
      self._assert_equal(states.memory.features, name, "state_memory")
      self._assert_equal(
          np.where(filled, states.memory.entropy, 0),
          name, "state_entropy")

  @parameterized.parameters(*_DPE)
  def test_dpe(self, name):
    states, outputs = self._along(_DPE[name])
    self._assert_equal(outputs.scores, name, "logits")
    self._assert_equal(states.text, name, "state_text")
    np.testing.assert_array_equal(
        states.averaged, self._stored(name, "state_num_avg"))
    if "textgrad" not in name:
      features, entropy = map(np.asarray, states.cache)
      order = np.argsort(entropy, axis=-1)
      self._assert_equal(
          np.take_along_axis(entropy, order, -1), name, "state_pos_ent")
      self._assert_equal(np.take_along_axis(features, order[..., None], -2),
                         name, "state_pos_feat")
      np.testing.assert_array_equal(
          np.isfinite(entropy).sum(-1), self._stored(name, "state_pos_count"))

  def test_ecalp(self):
    _, outputs = self._along(graph.Ecalp())
    self._assert_equal(outputs.scores, "ecalp_clean", "scores", atol=1e-12)
    self._assert_equal(
        np.exp(outputs.log_probs), "ecalp_clean", "probs", atol=1e-7)

  @parameterized.parameters(*_TDA, *_BOOST)
  def test_caches_in_three_orders(self, name):
    outputs = _stream(
        (_TDA | _BOOST)[name].method(), self.task, self.views, self.orders)
    np.testing.assert_allclose(
        outputs.scores,
        [self.oracle[f"{name}/order{r}/logits"] for r in range(3)], atol=1e-9)

  @parameterized.parameters(*_TDA, *_BOOST)
  def test_what_caches_remember(self, name):
    states, _ = self._along((_TDA | _BOOST)[name])
    newest = name in _BOOST
    for kind, ours in (("pos", states.positive), ("neg", states.negative)):
      features, entropy = map(np.asarray, ours)
      # In the order of the stored ones, empty places last.
      empty = np.isinf(entropy)
      order = np.argsort(empty if newest and kind == "neg" else entropy,
                         axis=-1, kind="stable")
      sort = lambda x: np.take_along_axis(x, order, -1)
      self._assert_equal(sort(entropy), name, f"state_{kind}_ent")
      self._assert_equal(np.take_along_axis(features, order[..., None], -2),
                         name, f"state_{kind}_feat")
      np.testing.assert_array_equal(
          (~empty).sum(-1), self._stored(name, f"state_{kind}_count"))
    probs, filled = self._stored(name, "state_neg_prob"), ~sort(empty)
    np.testing.assert_array_equal(
        np.take_along_axis(
            np.asarray(states.against), order[..., None], -2)[filled],
        ((probs > 0.03) & (probs < 1))[filled])

  @parameterized.product(name=(
      "tda_eurosat", "boostadapter_DTD", "dmn_len4", "dpe_textgrad_DTD",
      "onzeta_A", "ecalp_clean"))
  def test_float32_is_close(self, name):
    numbers = {"ecalp_clean": graph.Ecalp()} | (
        _TDA | _BOOST | _DMN | _DPE | _ONZETA)
    single = np.float32
    self.views = single(self.views)
    self.task = self.task._replace(
        text_features=single(self.task.text_features),
        logit_scale=single(self.task.logit_scale))
    _, outputs = self._along(numbers[name])
    key = {"dmn_len4": "output", "onzeta_A": "probs",
           "ecalp_clean": "scores"}.get(name, "logits")
    self.assertEqual(outputs.scores.dtype, np.float32)
    self._assert_equal(outputs.scores, name, key, atol=2e-3)

  @mock.patch.object(run, "LARGE_STATE", 100)
  def test_large_states_one_stream_after_the_other(self):
    method = memory.Dmn(selection_fraction=0.25, capacity=4).method()
    # Not by way of a program of streams at once.
    outputs = jax.jit(lambda *given: run.stream(*given))(
        method, self.task, self.views, self.orders)
    self._assert_equal(outputs.scores, "dmn_len4", "output", atol=1e-9)

  def test_two_settings_of_a_method_are_one_program(self):
    stream = jax.jit(chex.assert_max_traces(run.stream, n=1))
    for numbers in _TDA.values():
      stream(numbers.method(), self.task, self.views, self.orders)

  def test_a_grid_of_numbers_is_one_by_one(self):
    grid = [cache.Tda(alpha=alpha, beta=beta) for alpha, beta in (
        (1.0, 3.0), (2.0, 8.0), (5.0, 5.0))]
    stream = lambda numbers, *given: run.stream(numbers.method(), *given)
    together = jax.tree.map(np.asarray, jax.jit(jax.vmap(
        stream, (0, None, None, None)))(
            run.stack(grid), self.task, self.views, self.orders))
    for i, numbers in enumerate(grid):
      jax.tree.map(
          lambda a, b, i=i: np.testing.assert_allclose(a[i], b, atol=1e-12),
          together, _stream(
              numbers.method(), self.task, self.views, self.orders))

  def test_a_grid_of_numbers_is_as_long_a_program_as_two(self):
    function, sizes = jax.jit(run.episodic_each), []
    for rates in ((1e-3, 5e-3), (1e-3, 2e-3, 5e-3, 1e-2, 3e-2)):
      methods_of = {f"tps-{rate}": shifts.Tps(learning_rate=rate).method()
                    for rate in rates} | {"mta": modes.Mta().method()}
      given = methods_of, self.task, self.views
      sizes.append(len(str(function.trace(*given).jaxpr).splitlines()))
      found = function(*given)
      self.assertCountEqual(found, methods_of)
      for name, method in methods_of.items():
        alone = _episodic(method, self.task, self.views)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12),
                     found[name], alone)
    # Each further number is stacked before, and taken out after.
    self.assertLess(sizes[1], 1.2 * sizes[0])

  @parameterized.parameters(1, 7, 25, 60)
  def test_a_stream_in_chunks_is_one_scan(self, chunk_size):
    method = _TDA["tda_DTD"].method()
    whole = _stream(method, self.task, self.views, self.orders)
    scores, seen = np.full((3, 60, 7), np.nan), []

    def read(positions):
      seen.append(positions)
      return self.views[positions]

    for chunk in run.stream_in_chunks(
        method, self.task, read, self.orders, chunk_size=chunk_size):
      for r, positions in enumerate(chunk.positions):
        scores[r, positions] = chunk.outputs.scores[r]
    np.testing.assert_allclose(scores, whole.scores, atol=1e-12)
    self.assertEqual(chunk.stop, 60)
    # Only what a chunk needs is read, each image once.
    self.assertLessEqual(max(map(len, seen)), 3 * chunk_size)
    for positions in seen:
      self.assertLen(set(positions.tolist()), len(positions))

  def test_a_stream_that_goes_on_has_the_same_bits(self):
    method = _TDA["tda_eurosat"].method()
    chunks = list(run.stream_in_chunks(
        method, self.task, lambda rows: self.views[rows], self.orders,
        chunk_size=7))
    for at in (0, 2):
      resumed = list(run.stream_in_chunks(
          method, self.task, lambda rows: self.views[rows], self.orders,
          chunk_size=7, states=chunks[at].states, start=chunks[at].stop))
      jax.tree.map(np.testing.assert_array_equal, resumed, chunks[at + 1:])

  def test_a_start_needs_its_states(self):
    method = _TDA["tda_DTD"].method()
    with self.assertRaisesRegex(ValueError, "0 without states.*got 4"):
      next(run.stream_in_chunks(
          method, self.task, lambda rows: self.views[rows], self.orders,
          start=4))


if __name__ == "__main__":
  absltest.main()
