"""Scores by quarters of the stream, and what caches hold, against loops."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcal
from jaxcal import stages
from jaxcal.adapt import orders
from jaxcal.metrics import statistics
from jaxcal.report import along_stream
from jaxcal.report import figures
from jaxcal.report import measured
from jaxcal.report import over_orders
from jaxcal.report import scores
from jaxcal.report import sections
from jaxcal.report import tables
from tests.adapt import loops
from tests.report import drawn

_N, _K = 103, 5
_LEVEL = scores.Conventions(num_resamples=40, num_bins=5)


def _one(seed, of, order=None, entered=None):
  rng = np.random.default_rng(seed)
  labels = np.random.default_rng(99).integers(_K, size=_N).astype(np.int32)
  found = drawn.predictions(
      2 * rng.standard_normal((_N, _K)) + 2 * np.eye(_K)[labels], labels)
  info = {} if order is None else {
      "stream_position": np.argsort(order).astype(np.float32)}
  return found._replace(
      info=info | (entered or {}),
      settings={"method": of.label, stages.SETTING: stages.fields(of)})


def _predictions(**entered):
  orders = {seed: np.random.default_rng(seed).permutation(_N)
            for seed in (3, 4)}
  return {"zero_shot": _one(0, stages.Stages("zero_shot"))} | {
      (of := stages.Stages("tda", order_seed=seed)).label: _one(
          seed, of, order, entered) for seed, order in orders.items()}


def _rows(found, conventions=_LEVEL):
  groups = over_orders.groups({
      name: stages.of_settings(one.settings, name)
      for name, one in found.items()})
  return along_stream.rows(groups, found, conventions)


def _loops(one, images):
  """The scores of some of the images."""
  logits = np.float64(one.logits[images])
  probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  labels, confidence = one.labels[images], probs.max(-1)
  right = probs.argmax(-1) == labels
  bins = np.minimum(np.ceil(confidence * 5), 5)
  ece = sum(abs((confidence - right)[bins == b].sum())
            for b in np.unique(bins)) / len(images)
  return {"accuracy": right.mean(), "gap": confidence.mean() - right.mean(),
          "ece": ece,
          "nll": -np.log(probs[np.arange(len(images)), labels]).mean()}


def _quarters(one):
  return np.array_split(np.argsort(one.info["stream_position"]), 4)


class AlongStreamTest(parameterized.TestCase):

  def test_quarters_and_differences_are_means_over_orders(self):
    found = _predictions()
    rows = _rows(found)
    self.assertEqual([row["part"] for row in rows], [1, 2, 3, 4, "change"])
    self.assertEqual([row["num_images"] for row in rows[:4]], [26, 26, 26, 25])
    along = [found["tda-order3"], found["tda-order4"]]
    differences = []
    for part, row in enumerate(rows[:4]):
      self.assertEqual(stages.of(row), stages.Stages("tda"))
      ours, theirs = (
          [_loops(one or of, _quarters(of)[part]) for of in along]
          for one in (None, found["zero_shot"]))
      differences.append({})
      for name in ("accuracy", "gap", "ece", "nll"):
        mean, reference = (np.mean([one[name] for one in some])
                           for some in (ours, theirs))
        differences[part][name] = mean - reference
        self.assertAlmostEqual(row[name], mean, places=6)
        self.assertAlmostEqual(row[f"reference_{name}"], reference, places=6)
        self.assertAlmostEqual(
            row[f"{name}_difference"], mean - reference, places=6)
        self.assertLess(row[f"{name}_low"], row[f"{name}_high"])
    for name, last in differences[3].items():
      self.assertAlmostEqual(rows[4][f"{name}_difference"],
                             last - differences[0][name], places=6)
    self.assertNotIn("accuracy", rows[4])

  @pytest.mark.slow
  def test_intervals_are_of_resamples_of_all_images(self):
    found = _predictions()
    row = _rows(found)[1]
    values = []
    with jax.enable_x64(True):
      for key in jax.random.split(
          jax.random.key(_LEVEL.seed), _LEVEL.num_resamples):
        counts = np.asarray(statistics.resample_weights(key, _N)).astype(int)
        values.append(np.mean([
            _loops(one, images)["accuracy"] -
            _loops(found["zero_shot"], images)["accuracy"]
            for one in (found["tda-order3"], found["tda-order4"])
            for images in [np.repeat(_quarters(one)[1], counts[
                _quarters(one)[1]])]]))
      expected = statistics.recentred_interval(
          jnp.asarray(row["accuracy_difference"]), jnp.asarray(values))
    self.assertAlmostEqual(
        row["accuracy_difference_low"], float(expected.low), places=6)
    self.assertAlmostEqual(
        row["accuracy_difference_high"], float(expected.high), places=6)

  def test_what_there_is_not(self):
    found = _predictions()
    self.assertEmpty(_rows({"zero_shot": found["zero_shot"]}))
    alone = _rows({"tda-order3": found["tda-order3"]})
    self.assertEqual([row["part"] for row in alone], [1, 2, 3, 4])
    self.assertEqual(alone[0]["order_seed"], 3)
    self.assertNotIn("nll_difference", alone[0])
    recalibrated = _one(3, stages.Stages("tda", recalibrator="temperature"),
                        np.arange(_N))
    self.assertEmpty(_rows({"tda+temperature": recalibrated}))
    few = {name: jaxcal.predictions.take(one, range(79))
           for name, one in found.items()}
    self.assertEmpty(_rows(few))

  @parameterized.parameters(0, 1, 40, 103)
  def test_what_a_cache_holds(self, stop):
    rng = np.random.default_rng(5)
    order, labels = rng.permutation(_N), rng.integers(3, size=_N)
    label = rng.integers(-1, 3, size=_N)
    place = np.where(label < 0, -1, rng.integers(4, size=_N))
    info = {name: values.astype(np.float32) for name, values in (
        ("stream_position", np.argsort(order)), ("entered_class", label),
        ("entered_place", place))}
    inside = {}
    for image in order[:stop]:
      if label[image] >= 0:
        inside[label[image], place[image]] = image
    wrong = sum(labels[image] != own for (own, _), image in inside.items())
    self.assertEqual(
        along_stream.held(info, labels, stop), (len(inside), wrong, 0))

  @parameterized.parameters(0, 1, 60, 140, 143)
  def test_what_a_cache_holds_of_other_classes(self, stop):
    rng = np.random.default_rng(6)
    n = _N + 40
    order, labels = rng.permutation(n), rng.integers(3, size=_N)
    label = rng.integers(-1, 3, size=n)
    place = np.where(label < 0, -1, rng.integers(4, size=n))
    info = {name: values.astype(np.float32) for name, values in (
        ("stream_position", np.argsort(order)), ("entered_class", label),
        ("entered_place", place), ("other", label))}
    inside = {}
    for image in order[:stop]:
      if label[image] >= 0:
        inside[label[image], place[image]] = image
    outside = sum(image >= _N for image in inside.values())
    wrong = sum(image >= _N or labels[image] != own
                for (own, _), image in inside.items())
    own, others = ({name: values[rows] for name, values in info.items()}
                   for rows in (slice(_N), slice(_N, n)))
    self.assertEqual(along_stream.held(own, labels, stop, others),
                     (len(inside), wrong, outside))

  @pytest.mark.slow
  def test_what_tda_admits_of_other_classes(self):
    """By the lists of a program that is built as the released one is."""
    rng = np.random.default_rng(2)
    text = loops.unit(rng.standard_normal((4, 16)))
    labels, num_others = rng.integers(4, size=90), 60
    features = loops.unit(np.concatenate([
        text[labels] + 0.5 * rng.standard_normal((90, 16)),
        rng.standard_normal((num_others, 16))]))
    found = jaxcal.predict(
        {"zero_shot": jaxcal.ZeroShot(), "tda": jaxcal.Tda(capacity=4)},
        jaxcal.Task(text, 20.0), features,
        labels=np.append(labels, np.zeros(num_others, int)),
        order=orders.orders("shuffled", labels, (0, 1), num_others=num_others))
    own, outside = (
        {name: jaxcal.predictions.take(one, rows)
         for name, one in found.items()} for rows in (
             range(90), range(90, 150)))
    groups = over_orders.groups({
        name: stages.of_settings(one.settings, name)
        for name, one in own.items()})
    rows = [row for row in along_stream.rows(groups, own, _LEVEL, outside)
            if row["method"] == "tda"]
    for part, row in enumerate(rows[:4], 1):
      wrong, of_others, entries = [], [], []
      for seed in (0, 1):
        order = orders.order(
            "shuffled", labels, seed, num_others=num_others)
        come = np.flatnonzero(order < 90)
        # A quarter of the images, and what comes before the next one.
        stop = 150 if part == 4 else come[
            sum(map(len, np.array_split(come, 4)[:part]))]
        _, lists, _ = loops.tda(
            text, 20.0, features[order[:stop], None], capacity=4)
        inside = [(own_class, image) for own_class, held in enumerate(lists)
                  for _, x in held
                  for image in [int(np.argmax(features @ x))]]
        entries.append(len(inside))
        of_others.append(np.mean([image >= 90 for _, image in inside]))
        wrong.append(np.mean([image >= 90 or labels[image] != own_class
                              for own_class, image in inside]))
      self.assertAlmostEqual(row["entries"], np.mean(entries))
      self.assertAlmostEqual(row["wrong_entries"], np.mean(wrong))
      self.assertAlmostEqual(row["outside_entries"], np.mean(of_others))
      self.assertAlmostEqual(
          row["outside_entries_std"], np.std(of_others, ddof=1))
      self.assertGreater(row["outside_entries"], 0)
    text = "\n".join(along_stream.blocks(
        [{"data": "pets"} | row for row in rows], 0.95))
    self.assertIn("of other classes in cache %", text)
    self.assertIn("images of none of the classes", text)
    # In streams of their own, they do not meet.
    apart = {name: one._replace(info={**one.info, **({
        "stream_position": np.arange(60.0)} if one.info else {})})
             for name, one in outside.items()}
    alone = along_stream.rows(groups, own, _LEVEL, apart)
    self.assertNotIn("outside_entries", alone[0])

  def test_what_caches_hold_is_in_the_rows(self):
    rng = np.random.default_rng(1)
    entered = {"entered_class": rng.integers(_K, size=_N).astype(np.float32),
               "entered_place": rng.integers(2, size=_N).astype(np.float32)}
    found = _predictions(**entered)
    rows = _rows(found)
    for part, row in enumerate(rows[:4]):
      shares = []
      for one in (found["tda-order3"], found["tda-order4"]):
        stop = sum(map(len, _quarters(one)[:part + 1]))
        entries, wrong, _ = along_stream.held(one.info, one.labels, stop)
        shares.append(wrong / entries)
      self.assertAlmostEqual(row["wrong_entries"], np.mean(shares))
      self.assertAlmostEqual(
          row["wrong_entries_std"], np.std(shares, ddof=1))
    self.assertNotIn("wrong_entries", rows[4])

  def test_tables_and_pictures(self):
    rows = [{"data": "pets"} | row for row in _rows(_predictions())]
    _, table, legend = along_stream.blocks(rows, 0.95)
    self.assertLen(table.splitlines(), 2 + 3)
    self.assertIn("| 1 of 4 ", table)
    self.assertIn("| 4 - 1 ", table)
    self.assertNotIn("wrong in cache", table)
    self.assertNotIn("of other classes in cache", table + legend)
    self.assertIn("95 % bootstrap", legend)
    self.assertEmpty(along_stream.blocks([], 0.95))
    every = tables.markdown(rows, along_stream.columns(rows))
    self.assertLen(every.splitlines(), 2 + 5)
    section = sections.along_stream(rows, _LEVEL)
    self.assertEqual(section.heading, along_stream.HEADING)
    self.assertLen(section.blocks, 4)
    drawn_figures = section.blocks[2].figures
    self.assertLen(drawn_figures, 2)
    self.assertIn("tda", drawn_figures[0].svg)
    self.assertEmpty(sections.along_stream([], _LEVEL).blocks)
    without = [row for row in rows if row["part"] == "change"]
    with self.assertRaisesRegex(ValueError, "no rows with a nll_difference"):
      figures.along_stream(without, "nll", "NLL")

  @pytest.mark.slow
  def test_measured_with_the_rest(self):
    found = _predictions()
    whole = measured.measure([measured.Predicted(
        "pets", found, measured.references(list(found)))], _LEVEL)
    self.assertEqual(whole.along_stream, [
        {"data": "pets"} | row for row in _rows(found)])
    # Where an image came is no measure of a method.
    self.assertNotIn("median_stream_position", whole.rows[1])


if __name__ == "__main__":
  absltest.main()
