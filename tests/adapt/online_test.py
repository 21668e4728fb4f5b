"""Methods along a stream against loops as the released programs have them."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np
import pytest

import jaxcal
from jaxcal import predictions
from jaxcal.adapt import base
from jaxcal.adapt import cache
from jaxcal.adapt import classifier
from jaxcal.adapt import graph
from jaxcal.adapt import memory
from jaxcal.adapt import methods
from jaxcal.adapt import prototypes
from jaxcal.adapt import run
from tests.adapt import loops

_K, _V, _D, _N = 5, 10, 8, 40
_SCALE = 30.0


def _toy(seed=0):
  """Text features, and views of images that lie about them."""
  rng = np.random.default_rng(seed)
  text = loops.unit(rng.standard_normal((_K, _D)))
  clean = text[rng.integers(_K, size=_N)] + 0.5 * rng.standard_normal((_N, _D))
  views = clean[:, None] + 0.3 * rng.standard_normal((_N, _V, _D))
  views[:, 0] = clean
  return text, loops.unit(views)


_STREAMS = [name for name in methods.METHODS if base.has_state(
    methods.method(name).method(), base.Task(np.eye(3, dtype=np.float32), 1.0))
            and not base.num_contexts(methods.method(name))]
_stream = jax.jit(run.stream)


class OnlineTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.enterContext(jax.enable_x64(True))
    self.text, self.views = _toy()
    self.task = base.Task(self.text, np.float64(_SCALE))
    self.order = np.random.default_rng(7).permutation(_N)

  def _streamed(self, numbers):
    """Outputs in the order of the stream, of one order."""
    outputs = _stream(
        numbers.method(), self.task, self.views[self.order],
        np.arange(len(self.order))[None])
    return jax.tree.map(lambda x: np.asarray(x)[0], outputs)

  @parameterized.parameters(
      {}, dict(beta=1.0, balance=0.0), dict(beta=0.0, balance=0.5),
      dict(beta=0.4, proxy_step=2.0, dual_step=3.0))
  def test_onzeta(self, **changed):
    outputs = self._streamed(classifier.OnZeta(**changed))
    expected, _, _ = loops.onzeta(
        self.text, _SCALE, self.views[self.order], **changed)
    np.testing.assert_allclose(outputs.scores, expected, atol=1e-12)
    np.testing.assert_allclose(np.exp(outputs.log_probs), expected, atol=1e-12)

  @parameterized.parameters(
      dict(alpha=0.3, beta=2.0), dict(predict_first=True),
      dict(replacement="lower_entropy"), dict(capacity=1, alpha=0.0),
      dict(selection_fraction=0.3), dict(
          selection_fraction=1.0, average="probabilities",
          replacement="lower_entropy", predict_first=True))
  def test_dmn(self, **changed):
    given = {"capacity": 3, **changed}
    kind = (memory.Dmn if "selection_fraction" in given else
            memory.DmnWeak)
    outputs = self._streamed(kind(**given))
    expected, lists = loops.dmn(
        self.text, _SCALE, self.views[self.order], **given)
    self.assertGreater(self._filled(lists, given["capacity"]), 0)
    np.testing.assert_allclose(outputs.scores, expected, atol=1e-12)
    np.testing.assert_allclose(
        np.exp(outputs.log_probs), expected / expected.sum(-1, keepdims=True),
        atol=1e-12)

  @parameterized.parameters(
      {}, dict(predict_first=True), dict(negative_keeps="newest"),
      dict(capacity=1, negative_capacity=1, predict_first=True),
      dict(predicted="confident", selection_fraction=0.4),
      dict(boosted=True, predicted="confident"),
      dict(boosted=True), dict(boosted=True, predict_first=True),
      dict(boosted=True, negative_keeps="lowest_entropy", capacity=2),
      dict(boosted=True, extra_capacity=0, selection_fraction=0.8),
      dict(boosted=True, extra_capacity=20, selection_fraction=1.0,
           capacity=1))
  def test_caches(self, boosted=False, **changed):
    kind, given = cache.Tda, {}
    if boosted:
      kind = cache.BoostAdapter
      given = {"selection_fraction": 0.5, "extra_capacity": 1,
               "negative_keeps": "newest"}
    given |= {"negative_alpha": 0.5, **changed}
    outputs = self._streamed(kind(**given))
    expected, positive, negative = loops.tda(
        self.text, _SCALE, self.views[self.order], **given)
    self.assertGreater(self._filled(positive, given.get("capacity", 3)), 0)
    self.assertGreater(
        self._filled(negative, given.get("negative_capacity", 2)), 0)
    np.testing.assert_allclose(outputs.scores, expected, atol=1e-12)

  @parameterized.parameters(
      {}, dict(predict_first=True),
      dict(entropy_gradient=True, predict_first=True, capacity=1),
      dict(predicted="confident", alignment=0.0, predict_first=True))
  def test_dpe(self, **changed):
    given = {"selection_fraction": 0.3, "alpha": 2.0, "learning_rate": 0.01,
             **changed}
    self.order = self.order[:25]
    outputs = self._streamed(prototypes.Dpe(**given))
    expected, lists, _, number = loops.dpe(
        self.text, _SCALE, self.views[self.order], **given)
    self.assertGreater(self._filled(lists, given.get("capacity", 3)), 0)
    self.assertGreater(number, 3)
    np.testing.assert_allclose(outputs.scores, expected, atol=1e-6)

  @parameterized.parameters(
      {}, dict(image_neighbours=1, text_neighbours=1, num_rounds=1),
      dict(image_neighbours=50, text_neighbours=50, power=2, num_rounds=5))
  def test_ecalp(self, **changed):
    outputs = self._streamed(graph.Ecalp(sharpness=20.0, **changed))
    expected = loops.ecalp(self.text, self.views[self.order], **changed)
    np.testing.assert_allclose(outputs.scores, expected, atol=1e-12)
    np.testing.assert_allclose(
        np.exp(outputs.log_probs), loops.softmax(20 * expected), atol=1e-10)

  def _filled(self, lists, capacity):
    """How many classes are full, so that entries were replaced."""
    return sum(len(one) == capacity for one in lists)


class StreamTest(parameterized.TestCase):
  """What every method with a state keeps to."""

  def setUp(self):
    super().setUp()
    text, views = _toy()
    self.text, self.views = np.float32(text), np.float32(views)
    self.task = base.Task(self.text, np.float32(_SCALE), num_images=_N)
    rng = np.random.default_rng(5)
    self.orders = np.array([rng.permutation(_N), rng.permutation(_N)])

  def _advance(self, name, *, states=None, views=None, orders=None):
    """(states, outputs) at the end of two streams, by one program per method.
    """
    method = _numbers(name).method()
    if states is None:
      states = run.begin(method, self.task, 2)
    return jax.tree.map(np.asarray, run.advance(
        method, self.task, states, self.views if views is None else views,
        self.orders if orders is None else orders))

  def _chunks(self, name, size, **more):
    return list(run.stream_in_chunks(
        _numbers(name).method(), self.task, lambda rows: self.views[rows],
        self.orders, chunk_size=size, **more))

  @parameterized.parameters(*_STREAMS)
  @pytest.mark.slow
  def test_where_it_is_cut_and_killed_does_not_matter(self, name):
    whole, = self._chunks(name, _N)
    for size in (13, 39):
      chunks = self._chunks(name, size)
      together = jax.tree.map(
          lambda *x: np.concatenate(x, axis=1),
          *[chunk.outputs for chunk in chunks])
      jax.tree.map(np.testing.assert_array_equal, together, whole.outputs)
      at = chunks[0]
      resumed = self._chunks(name, size, states=at.states, start=at.stop)
      jax.tree.map(np.testing.assert_array_equal, resumed, chunks[1:])

  @parameterized.parameters(*_STREAMS)
  def test_company_in_the_batch_does_not_matter(self, name):
    _, both = self._advance(name)
    for i, order in enumerate(self.orders):
      _, twice = self._advance(name, orders=np.stack([order, order]))
      jax.tree.map(lambda x, y: np.testing.assert_array_equal(
          x, [y[i], y[i]]), twice, both)

  @parameterized.parameters("tda", "boostadapter", "dmn", "dmn_weak", "dpe")
  def test_info_says_which_image_is_in_which_place(self, name):
    states, outputs = self._advance(name)
    replaced = 0
    for stream, order in enumerate(self.orders):
      inside = {}
      for label, place, image in zip(*(
          outputs.info[key][stream] for key in predictions.ENTERED), order):
        self.assertEqual(label < 0, place < 0)
        if label >= 0:
          replaced += (int(label), int(place)) in inside
          inside[int(label), int(place)] = image
      caches = [one for one in jax.tree.leaves(
          states, is_leaf=lambda x: isinstance(x, cache.Cache))
                if isinstance(one, cache.Cache)]
      filled = np.isfinite(caches[0].entropy[stream])
      self.assertCountEqual(inside, map(tuple, np.argwhere(filled).tolist()))
      if name != "dpe":  # which keeps means of several views
        for place, image in inside.items():
          np.testing.assert_array_equal(
              caches[0].features[stream][place], self.views[image, 0])
    self.assertGreater(replaced, 0)

  @parameterized.parameters(*_STREAMS)
  def test_nothing_comes_out_of_empty_places(self, name):
    states = run.begin(_numbers(name).method(), self.task, 2)
    planted = _planted(states)
    self.assertEqual(
        name == "onzeta", jax.tree.all(jax.tree.map(
            lambda *both: np.array_equal(*both), states, planted)))
    outputs = [self._advance(name, states=one)[1] for one in (states, planted)]
    jax.tree.map(np.testing.assert_array_equal, *outputs)
    self.assertTrue(np.isfinite(outputs[0].log_probs).all())

  @parameterized.parameters(*_STREAMS)
  def test_the_same_image_again_and_again(self, name):
    _, outputs = self._advance(
        name, views=np.tile(self.text[:1], (_N, _V, 1)))
    self.assertTrue(np.isfinite(outputs.log_probs).all())
    if name != "onzeta":  # whose classes are to come equally often
      np.testing.assert_array_equal(np.argmax(outputs.scores, -1), 0)


def _numbers(name):
  given = {"selection_fraction": 0.3, "capacity": 3}
  known = methods.numbers_of(name)
  return methods.method(name, **{
      key: value for key, value in given.items() if key in known})


def _planted(states):
  """The states before the first image with something in every empty place."""
  def plant(path, leaf):
    if path[-1].name in ("features", "weighted", "value"):
      return np.full_like(leaf, 7.0)
    return np.full_like(leaf, True) if path[-1].name == "against" else leaf

  return jax.tree_util.tree_map_with_path(plant, states)


class LengthTest(parameterized.TestCase):
  """ECALP has room for a stream whose length is known beforehand."""

  def setUp(self):
    super().setUp()
    self.text, self.views = _toy()

  def _task(self, num_images):
    return base.Task(np.float32(self.text), np.float32(_SCALE),
                     num_images=num_images)

  @pytest.mark.slow
  def test_it_is_that_of_the_stream(self):
    found = jaxcal.predict(
        {"ecalp": jaxcal.Ecalp(), "roomy": jaxcal.Ecalp(length=_N + 9)},
        jaxcal.Task(self.text, _SCALE), self.views.astype(np.float32))
    np.testing.assert_allclose(
        found["ecalp"].logits, found["roomy"].logits, rtol=1e-3, atol=0.05)
    expected = loops.ecalp(self.text, self.views)
    np.testing.assert_allclose(
        found["ecalp"].evidence["scores"], expected, atol=1e-5)

  def test_a_longer_stream_is_refused_at_once(self):
    with self.assertRaisesRegex(
        ValueError, f"^ecalp: there is room for length=39 images, but the "
        f"stream has {_N}; give a length of at least that"):
      jaxcal.predict({"ecalp": jaxcal.Ecalp(length=39)},
                     jaxcal.Task(self.text, _SCALE), self.views)

  def test_an_unknown_length_is_refused(self):
    begin = jax.jit(lambda task: run.begin(jaxcal.Ecalp().method(), task, 1))
    with self.assertRaisesRegex(ValueError, r"give Ecalp\(length=...\)"):
      begin(self._task(_N))
    states = jax.jit(lambda task: run.begin(
        jaxcal.Ecalp(length=3).method(), task, 1))(self._task(_N))
    self.assertEqual(states.weighted.shape, (1, 3, _D))

  def test_images_beyond_it_are_not_predicted(self):
    method, task = jaxcal.Ecalp(length=3).method(), self._task(0)
    _, outputs = run.advance(
        method, task, run.begin(method, task, 1),
        np.float32(self.views), np.arange(5)[None])
    np.testing.assert_array_equal(
        np.isnan(outputs.scores).all(-1), [[False] * 3 + [True] * 2])

  @parameterized.parameters(
      ({"length": 0}, "length must be an integer of at least 1, got 0"),
      ({"power": 3}, "power must be even, got 3"),
      ({"num_rounds": 0}, "num_rounds must be an integer of at least 1"))
  def test_numbers_out_of_range(self, changed, message):
    with self.assertRaisesRegex(ValueError, message):
      jaxcal.Ecalp(**changed).method()


class OnZetaTest(absltest.TestCase):

  def test_what_float32_makes_zero_has_a_logarithm(self):
    text = np.eye(3, dtype=np.float32)
    outputs = _stream(
        classifier.OnZeta(beta=0.0).method(), base.Task(text, np.float32(300)),
        np.tile(text[:, None], (4, 1, 1)), np.arange(12)[None])
    self.assertTrue(np.isfinite(outputs.log_probs).all())
    self.assertLess(
        np.min(outputs.log_probs), np.log(np.finfo(np.float32).tiny))

  def test_a_weight_beyond_one_is_refused(self):
    with self.assertRaisesRegex(ValueError, r"beta must lie in .0, 1., got 2"):
      classifier.OnZeta(beta=2.0).method()


if __name__ == "__main__":
  absltest.main()
