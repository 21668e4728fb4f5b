"""Methods with a state along several orders: those of each order by itself."""

import pathlib
import re
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np
import pytest

import jaxcal
from jaxcal import predictions
from jaxcal import run
from jaxcal import stages
from jaxcal import streams
from jaxcal import tasks
from jaxcal.adapt import orders as orders_lib
from jaxcal.data import image_set as image_sets
from jaxcal.features import sources
from jaxcal.testbed import sets
from tests import run_test

_N, _V, _K, _D = 30, 8, 4, 16
_ALONG = {"tda": jaxcal.Tda(), "dmn": jaxcal.Dmn(selection_fraction=0.5),
          "ecalp": jaxcal.Ecalp(sharpness=1.0), "onzeta": jaxcal.OnZeta()}
_METHODS = {"tda": _ALONG["tda"], "mta": jaxcal.Mta(),
            "zero_shot": jaxcal.ZeroShot(selection_fraction=0.5),
            **{name: _ALONG[name] for name in ("dmn", "ecalp", "onzeta")}}
_EVIDENCE = ("image_features", "zero_shot_logits", "mean_cosine")


def _unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _images():
  rng = np.random.default_rng(0)
  text = _unit(rng.normal(size=(_K, _D)))
  labels = rng.integers(_K, size=_N)
  noise = rng.normal(size=(_N, _V, _D))
  return text, _unit(text[labels, None] + 0.4 * noise).astype(
      np.float32), labels


class StreamsTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.text, cls.views, cls.labels = _images()
    cls.task = jaxcal.Task(cls.text, 20.0)
    cls.orders = orders_lib.orders("shuffled", cls.labels, (0, 1, 7))
    cls.expected = cls.iterate()

  @classmethod
  def iterate(cls, **options):
    return dict(streams.iterate(
        _ALONG, tasks.checked(cls.task), sources.from_arrays(cls.views),
        cls.orders, **{"evidence": _EVIDENCE} | options))

  def _assert_same(self, found, atol=0.0):
    self.assertEqual(list(found), list(self.expected))
    for name, one in found.items():
      for field in ("logits", "info", "evidence"):
        jax.tree.map(
            lambda ours, theirs: np.testing.assert_allclose(
                ours, theirs, rtol=0, atol=atol), getattr(one, field),
            getattr(self.expected[name], field))

  @pytest.mark.slow
  def test_each_order_is_as_by_itself_and_the_others_are_there_once(self):
    found = jaxcal.predict(
        _METHODS, self.task, self.views, labels=self.labels,
        order=self.orders, evidence=_EVIDENCE)
    names = lambda name: [f"{name}-order{seed}" for seed in (0, 1, 7)]
    self.assertEqual(list(found), [
        *names("tda"), "mta", "zero_shot", *names("dmn"), *names("ecalp"),
        *names("onzeta")])
    for seed, order in self.orders.items():
      alone = jaxcal.predict(
          _METHODS, self.task, self.views, labels=self.labels, order=order,
          evidence=_EVIDENCE)
      for name, expected in alone.items():
        along = name in _ALONG
        one = found[f"{name}-order{seed}" if along else name]
        predictions.check(one)
        np.testing.assert_allclose(one.logits, expected.logits, atol=1e-4)
        self.assertEqual(one.info.keys(), expected.info.keys())
        for field in ("info", "evidence"):
          for key, values in getattr(expected, field).items():
            np.testing.assert_allclose(
                getattr(one, field)[key], values, atol=1e-4)
        self.assertEqual(
            stages.of_settings(one.settings, ""),
            stages.Stages(name, order_seed=seed if along else None))
        if along:
          np.testing.assert_array_equal(
              one.info["stream_position"][order], np.arange(_N))

  def test_orders_differ(self):
    one, other = (self.expected[f"tda-order{seed}"] for seed in (0, 7))
    self.assertGreater(np.abs(one.logits - other.logits).max(), 1e-2)

  @parameterized.parameters(
      dict(_LONGEST=7), dict(_BYTES=3 * 4 * _V * _D * 2), dict(_BYTES=1))
  @pytest.mark.slow
  def test_the_length_of_stretches_does_not_matter(self, **limits):
    """To the last bit, but for stretches of one image, where no loop is."""
    asked = []

    def watched(views):
      source = sources.from_arrays(views)
      return source._replace(batches=lambda positions, *rest: source.batches(
          asked.extend(positions) or positions, *rest))

    with mock.patch.multiple(streams, **limits):
      self._assert_same(dict(streams.iterate(
          _ALONG, tasks.checked(self.task), watched(self.views), self.orders,
          evidence=_EVIDENCE)), atol=1e-5 if limits.get("_BYTES") == 1 else 0)
    # No more features at a time than there is room for.
    most = 3 * limits.get(
        "_LONGEST", max(1, limits.get("_BYTES", 0) // (3 * 4 * _V * _D)))
    self.assertLessEqual(max(map(len, asked)), most)

  @pytest.mark.slow
  def test_on_one_device(self):
    self.assertGreater(jax.device_count(), 1)
    self._assert_same(self.iterate(devices=jax.devices()[:1]))

  @parameterized.parameters(0, 3600)
  @pytest.mark.slow
  def test_interrupted_run_goes_on(self, every):
    parts = pathlib.Path(self.create_tempdir().full_path)
    batches = []
    with mock.patch.multiple(streams, _LONGEST=8, _SAVE_SECONDS=every):
      with self.assertRaises(run_test.Interrupted):
        self.iterate(parts=parts, on_batch=run_test.stop_after(16))
      self.assertLen(streams.missing(parts, (0, 1, 7), _N), len(set(
          np.concatenate([order[16:] for order in self.orders.values()]))))
      self._assert_same(self.iterate(
          parts=parts, on_batch=lambda *one: batches.append(one)))
      self.assertEqual(batches[0], (24 if every == 0 else 8, _N))
      self.assertEmpty(streams.missing(parts, (0, 1, 7), _N))
      # All is there: nothing is computed, whatever was saved of the states.
      (parts / "streams.npz").unlink(missing_ok=True)
      with mock.patch.object(streams, "_advance", side_effect=AssertionError):
        self._assert_same(self.iterate(parts=parts))

  @pytest.mark.slow
  def test_a_part_that_was_lost_before_the_saved_states(self):
    parts = pathlib.Path(self.create_tempdir().full_path)
    with mock.patch.multiple(streams, _LONGEST=8, _SAVE_SECONDS=0):
      with self.assertRaises(run_test.Interrupted):
        self.iterate(parts=parts, on_batch=run_test.stop_after(16))
      first = self.orders[1][0]
      (parts / "order1" / f"{first:08d}.npz").unlink()
      self._assert_same(self.iterate(parts=parts))

  def test_other_orders_do_not_go_on(self):
    parts = pathlib.Path(self.create_tempdir().full_path)
    self.iterate(parts=parts)
    other = self.orders | {1: self.orders[1][::-1]}
    with mock.patch.object(type(self), "orders", other):
      with self.assertRaisesRegex(ValueError, "with other order; remove it"):
        self.iterate(parts=parts)

  @parameterized.parameters(
      ({"order": {0: [0, 0]}}, r"each position in \[0, 30\) once"),
      ({"order": {0: np.arange(_N)}, "evidence": ("scores",)},
       "'scores' cannot be computed here"),
      ({"order": {0: np.arange(_N)}, "methods": {
          "ecalp": jaxcal.Ecalp(length=3)}}, "room for length=3 images"))
  def test_refused_before_the_work(self, given, message):
    with (mock.patch.object(run, "iterate", side_effect=AssertionError),
          self.assertRaisesRegex(ValueError, message)):
      jaxcal.predict(given.pop("methods", _METHODS), self.task, self.views,
                     **given)


class PageTest(absltest.TestCase):

  def test_the_code_of_the_page(self):
    page = pathlib.Path(__file__).parents[1] / "docs" / "test_time.md"
    code, mixed = re.findall(
        r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"),
        re.DOTALL | re.MULTILINE)
    text, views, labels = _images()
    features = np.repeat(views[:, :1], 10, axis=1)
    names = {"jaxcal": jaxcal, "np": np, "task": jaxcal.Task(text, 20.0),
             "features": features, "labels": labels,
             "features_of_others": features[:7, :, ::-1]}
    exec(code, names)  # what is published
    self.assertLen(names["found"], 6)
    exec(mixed, names)
    self.assertLen(names["own"].ids, _N)
    self.assertEqual(names["found"]["tda"].info["stream_position"].max(),
                     _N + 6)


class FromImagesTest(absltest.TestCase):

  @pytest.mark.slow
  def test_every_image_goes_through_the_tower_once(self):
    model = jaxcal.load("testbed")
    images, read = run_test.watched(image_sets.limit(sets.load("digits"), 11))
    task = tasks.task_of(model, images.class_names)
    methods = {name: _METHODS[name] for name in ("zero_shot", "dmn")}
    orders = orders_lib.orders("sorted", images.labels, (0, 1))
    found = jaxcal.predict(
        methods, task, images, model=model, num_views=8, order=orders)
    self.assertCountEqual(read, range(11))
    for seed, order in orders.items():
      alone = jaxcal.predict(
          methods, task, images, model=model, num_views=8, order=order)
      for name in ("zero_shot", f"dmn-order{seed}"):
        np.testing.assert_allclose(
            found[name].logits, alone[name.partition("-")[0]].logits, atol=1e-4)


if __name__ == "__main__":
  absltest.main()
