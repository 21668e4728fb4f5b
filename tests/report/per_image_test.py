"""What is seen of single images, held against loops and simulated classes."""

import csv
import io

from absl.testing import absltest
import numpy as np

from jaxcal.predictions import Predictions
from jaxcal.report import inputs
from jaxcal.report import per_image
from tests import error_bars


def _random(seed=0, n=400, k=7, decimals=2):
  rng = np.random.default_rng(seed)
  logits = np.round(3 * rng.normal(size=(n, k)), decimals)
  return Predictions(
      logits.astype(np.float32), rng.integers(k, size=n).astype(np.int32),
      tuple(f"image {i}" for i in range(n)),
      tuple(f"class {i}" for i in range(k)))


class PerImageTest(absltest.TestCase):

  def test_of_logits(self):
    predictions = _random()
    found = per_image.of(predictions)
    odds = np.exp(predictions.logits.astype(float))
    np.testing.assert_allclose(
        found.confidence, odds.max(1) / odds.sum(1), rtol=1e-12)
    np.testing.assert_array_equal(
        found.correct, predictions.logits.argmax(1) == predictions.labels)
    self.assertEqual(found.classes.name_of(3), "class 3")

  def test_of_confidences_classes_are_not_known(self):
    given = inputs.one([0.5, 0.9], [True, False], "auto")
    found = per_image.of(given)
    self.assertIsNone(found.classes)
    self.assertEqual(per_image.hardest_classes({"a": found}), [])
    self.assertEqual(per_image.confident_mistakes({"a": found}), [])
    self.assertEqual(per_image.as_csv({"a": found}).splitlines()[1],
                     "a,,,,0.5,1")

  def test_classes_without_names_are_numbers(self):
    given = inputs.one(np.eye(3)[[0, 1, 1]], [0, 1, 2], "auto")
    one = per_image.of(given._replace(ids=("x", "y", "z")))
    hardest, *_ = per_image.hardest_classes({"a": one})
    self.assertEqual((hardest["class_name"], hardest["taken_for"]), ("2", "1"))

  def test_methods_of_other_images_are_left_out(self):
    first, other = (per_image.of(_random(seed)) for seed in (0, 1))
    alone = {"a": first}
    both = alone | {"b": other._replace(ids=tuple(map(str, range(400))))}
    for see in per_image.hardest_classes, per_image.confident_mistakes:
      self.assertEqual(see(both), see(alone))
      self.assertNotEqual(see({"a": first, "b": other}), see(alone))

  def test_risk_at_every_threshold(self):
    one = per_image.of(_random(n=150))
    one = one._replace(confidence=np.round(one.confidence, 1))
    curve = per_image.risk_coverage(one)
    wanted = {}
    for level in set(one.confidence.tolist()):
      kept = one.confidence >= level
      wanted[kept.mean()] = 1 - one.correct[kept].mean()
    self.assertLess(len(wanted), 150)  # some confidences occur twice
    found = dict(zip(curve.coverage.tolist(), curve.risk.tolist()))
    self.assertEqual(found.keys(), wanted.keys())
    for coverage, risk in found.items():
      self.assertAlmostEqual(risk, wanted[coverage])

  def test_long_curves_are_thinned_and_keep_their_ends(self):
    one = per_image.of(_random(n=3000, decimals=6))
    curve = per_image.risk_coverage(one)
    self.assertLen(curve.coverage, 200)
    self.assertEqual(curve.coverage[-1], 1)
    self.assertAlmostEqual(curve.risk[-1], 1 - one.correct.mean())
    self.assertEqual(curve.coverage[0], 1 / 3000)

  def test_hardest_classes_by_a_loop(self):
    both = {name: per_image.of(_random(seed)._replace(
        labels=_random(0).labels)) for seed, name in enumerate("ab")}
    found = per_image.hardest_classes(both, number=3)
    self.assertLen(found, 3)
    means = []
    for label in range(7):
      own = both["a"].classes.labels == label
      means.append(np.mean([one.correct[own] for one in both.values()]))
    self.assertEqual([row["class_name"] for row in found],
                     [f"class {label}" for label in np.argsort(means)[:3]])
    row, label = found[0], int(np.argmin(means))
    own = both["a"].classes.labels == label
    self.assertEqual(row["num_images"], own.sum())
    self.assertAlmostEqual(row["accuracy"], min(means))
    self.assertEqual(
        (row["accuracy_least"], row["accuracy_most"]),
        tuple(sorted(one.correct[own].mean() for one in both.values())))
    confidence = np.mean([one.confidence[own] for one in both.values()])
    self.assertAlmostEqual(row["confidence_gap"], confidence - min(means))
    votes = np.concatenate(
        [one.classes.predicted[own] for one in both.values()])
    counts = np.bincount(votes[votes != label], minlength=7)
    self.assertEqual(row["taken_for"], f"class {counts.argmax()}")
    self.assertAlmostEqual(row["taken_for_share"], counts.max() / len(votes))

  def test_lowest_class_by_chance_against_simulation(self):
    sizes, accuracy, draws = (5, 20, 20, 50), 0.7, 20_000
    labels = np.repeat(np.arange(4), sizes)
    correct = np.arange(len(labels)) < round(accuracy * len(labels))
    rng = np.random.default_rng(0)
    lowest = np.min([rng.binomial(size, correct.mean(), size=draws) / size
                     for size in sizes], axis=0)
    median = per_image.lowest_by_chance(labels, correct)
    # Half of the draws are at least the median, and half at most.
    error = error_bars.LEVEL * np.sqrt(0.25 / draws)
    self.assertGreater(np.mean(lowest >= median - 1e-12), 0.5 - error)
    self.assertLess(np.mean(lowest > median + 1e-12), 0.5 + error)

  def test_most_confident_mistakes_first(self):
    both = {name: per_image.of(_random(seed)._replace(
        labels=_random(0).labels)) for seed, name in enumerate("ab")}
    found = per_image.confident_mistakes(both, number=5)
    weight = np.zeros(400)
    for one in both.values():
      weight += ~one.correct * one.confidence / 2
    order = np.argsort(-weight)[:5]
    self.assertEqual([one.id for one in found],
                     [f"image {image}" for image in order])
    image, mistake = order[0], found[0]
    truth = both["a"].classes.labels
    self.assertEqual(mistake.label, f"class {truth[image]}")
    self.assertEqual(
        mistake.methods,
        tuple(name for name, one in both.items() if not one.correct[image]))
    wrong = [one.confidence[image] for one in both.values()
             if not one.correct[image]]
    self.assertEqual(mistake.confidence, (min(wrong), max(wrong)))

  def test_no_mistakes_where_all_is_right(self):
    predictions = _random()
    right = predictions._replace(
        labels=predictions.logits.argmax(1).astype(np.int32))
    self.assertEqual(
        per_image.confident_mistakes({"a": per_image.of(right)}), [])

  def test_csv_has_a_line_for_each_method_and_image(self):
    predictions = _random(n=3)._replace(
        class_names=('a, "b"', *map(str, range(6))))
    one = per_image.of(predictions)
    rows = list(csv.DictReader(io.StringIO(
        per_image.as_csv({"tpt": one, "soc": one}))))
    self.assertLen(rows, 6)
    self.assertEqual([row["method"] for row in rows], 3 * ["tpt"] + 3 * ["soc"])
    row = rows[4]
    self.assertEqual(row["id"], "image 1")
    self.assertEqual(row["label"], one.classes.name_of(one.classes.labels[1]))
    self.assertEqual(
        row["predicted"], one.classes.name_of(one.classes.predicted[1]))
    self.assertEqual(float(row["confidence"]), one.confidence[1])
    self.assertEqual(row["correct"], str(int(one.correct[1])))


if __name__ == "__main__":
  absltest.main()
