"""Sets of logits, and splits of predictions, against loops by numpy."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

import jaxcal
from jaxcal.conformal import coverage
from jaxcal.conformal import full
from jaxcal.conformal import predicted
from jaxcal.conformal import scores
from jaxcal.predictions import Predictions
from tests import error_bars


def _predictions(n=300, k=5, seed=0):
  rng = np.random.default_rng(seed)
  logits = 2 * rng.normal(size=(n, k)).astype(np.float32)
  labels = (logits + rng.gumbel(size=(n, k))).argmax(1).astype(np.int32)
  return Predictions(logits, labels, tuple(f"{i}" for i in range(n)),
                     tuple("abcde"[:k]))


class SetsTest(parameterized.TestCase):

  def test_equal_a_loop(self):
    one = _predictions()
    sets = jaxcal.conformal_sets(
        one.logits[:99], one.labels[:99], one.logits[99:])
    strange = 1 - special.softmax(one.logits.astype(float), axis=1)
    own = sorted(strange[i, one.labels[i]] for i in range(99))
    self.assertEqual(sets.tolist(), [
        [value <= own[89] for value in row] for row in strange[99:]])

  @parameterized.product(score=list(scores.SCORES), by_class=(False, True))
  def test_cover(self, score, by_class):
    one = _predictions(4000)
    sets = jaxcal.conformal_sets(
        one.logits[:2000], one.labels[:2000], one.logits[2000:], score=score,
        by_class=by_class)
    labels = one.labels[2000:]
    hits = sets[np.arange(2000), labels]
    parts = [hits[labels == y] for y in range(5)] if by_class else [hits]
    for y, part in enumerate(parts):
      n = np.sum(one.labels[:2000] == y) if by_class else 2000
      law = coverage.promise(int(n), len(part), 0.1)
      self.assertAlmostEqual(
          part.mean(), law.mean, delta=error_bars.LEVEL * float(law.std))

  def test_arrays_of_any_kind_constants_and_seeds(self):
    one = _predictions(60)
    args = one.logits[:40], one.labels[:40], one.logits[40:]
    sets = jaxcal.conformal_sets(*args, score="aps")
    np.testing.assert_array_equal(jaxcal.conformal_sets(
        jnp.asarray(args[0]), args[1].tolist(), args[2].tolist(), score="aps"),
        sets)
    np.testing.assert_array_equal(
        jaxcal.conformal_sets(args[0] + 100, args[1], args[2] - 50,
                              score="lac"),
        jaxcal.conformal_sets(*args, score="lac"))
    self.assertTrue(any((jaxcal.conformal_sets(
        *args, score="aps", seed=seed) != sets).any() for seed in range(1, 9)))

  def test_nonempty(self):
    logits = np.array([[9., 0, 0]] * 60 + [[1., .9, .8]])
    args = logits[:60], np.zeros(60, int), logits[60:]
    self.assertEqual(
        jaxcal.conformal_sets(*args).tolist(), [[False, False, False]])
    self.assertEqual(jaxcal.conformal_sets(*args, nonempty=True).tolist(),
                     [[True, False, False]])

  def test_refusals(self):
    one = _predictions(20)
    logits, labels = one.logits, one.labels
    for args, message in (
        ((logits, labels, logits[:, :4]), "but there are 4 and 5"),
        ((logits, labels[:9], logits), r"\(9,\) and \(20, 5\)"),
        ((logits, labels + 1, logits), r"labels must lie in \[0, 5\)"),
        ((logits * np.nan, labels, logits), "100 are not finite"),
        ((special.softmax(logits, axis=1), labels, logits),
         "look like probabilities")):
      with self.assertRaisesRegex(ValueError, message):
        jaxcal.conformal_sets(*args)
    with self.assertRaisesRegex(ValueError, "unknown score 'asp'; did you"):
      jaxcal.conformal_sets(logits, labels, logits, score="asp")


class MeasureTest(parameterized.TestCase):

  @parameterized.product(score=("lac", "saps"), by_class=(False, True))
  def test_equals_a_loop_over_splits(self, score, by_class):
    one = _predictions(90)
    row = predicted.measure(
        one, score=score, by_class=by_class, num_splits=4, share=0.4, seed=3)
    found = []
    with jax.enable_x64(True):
      for key in jax.random.split(jax.random.key(3), 4):
        for_order, for_uniforms = jax.random.split(key)
        order = np.asarray(jax.random.permutation(for_order, 90))
        uniforms = np.asarray(jax.random.uniform(for_uniforms, 90))
        values = np.asarray(scores.SCORES[score](
            special.log_softmax(one.logits.astype(float), axis=1), uniforms))
        cal, test = order[:36], order[36:]
        own = values[cal, one.labels[cal]]
        # At 0.1: the 34th of 36; of a class, the rank is by its own images.
        q = np.full(5, np.sort(own)[33])
        for y in range(5) if by_class else ():
          mine = np.sort(own[one.labels[cal] == y])
          rank = int(np.ceil(np.round((len(mine) + 1) * 0.9, 9)))
          q[y] = mine[rank - 1] if rank <= len(mine) else np.inf
        found.append(coverage.measure(
            values[test] <= q, one.labels[test], 0.1))
      found = jax.tree.map(np.asarray, found)
    for name in coverage.Measures._fields:
      values = [getattr(split, name) for split in found]
      self.assertAlmostEqual(row[name], np.mean(values), 12, name)
    self.assertAlmostEqual(
        row["coverage_std"], np.std([split.coverage for split in found]), 12)
    self.assertEqual((row["num_calibration"], row["num_tested"]), (36, 54))
    self.assertEqual("valid" in row, not by_class)
    self.assertEqual(row["infinite"] > 0, by_class)

  @parameterized.parameters(*scores.SCORES)
  def test_coverage_is_as_promised(self, score):
    row = predicted.measure(_predictions(200), score=score, num_splits=500)
    level = error_bars.LEVEL
    self.assertAlmostEqual(row["coverage"], row["promised_mean"],
                           delta=level * row["promised_std"] / 500**0.5)
    # The standard error of a deviation, of a law that is nearly normal.
    self.assertAlmostEqual(row["coverage_std"], row["promised_std"],
                           delta=level * row["promised_std"] / 1000**0.5)
    self.assertBetween(
        round(500 * row["valid"]),
        *error_bars.binomial_band(500, row["promised_valid"]))
    self.assertBetween(row["promised_low"], 0.7, 0.9)

  def test_transport(self):
    one = _predictions(200)
    # One class is too likely everywhere.
    tilted = one._replace(logits=one.logits + np.float32([4, 0, 0, 0, 0]))
    plain, moved = (predicted.measure(
        tilted, transported=transported, num_splits=100)
                    for transported in (False, True))
    self.assertLess(moved["mean_size"], plain["mean_size"])
    self.assertAlmostEqual(
        moved["coverage"], moved["promised_mean"],
        delta=error_bars.LEVEL * moved["promised_std"] / 100**0.5)

  def test_refusals(self):
    one = _predictions(20)
    for given, message in (
        ({"share": 0.01}, "share of 0.01 of 20 images leaves 0 to calibrate"),
        ({"share": 0.99}, "leaves 20 to calibrate and 0"),
        ({"num_splits": 0}, "one split or more"),
        ({"alpha": 10.0}, r"alpha in \(0, 1\)"),
        ({"score": "thr"}, "unknown score 'thr'")):
      with self.assertRaisesRegex(ValueError, message):
        predicted.measure(one, **given)
    with self.assertRaisesRegex(ValueError, "have no labels"):
      predicted.measure(one._replace(labels=None))


class MeasureFullTest(parameterized.TestCase):

  def _predictions(self, n=60, k=4):
    rng = np.random.default_rng(0)
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
    text, labels = unit(rng.normal(size=(k, 8))), rng.integers(0, k, n)
    images = unit(text[labels] + 0.4 * rng.normal(size=(n, 8)))
    return Predictions(
        (20 * images @ text.T + rng.normal(size=(n, 1))).astype(np.float32),
        labels.astype(np.int32), tuple(map(str, range(n))), tuple("abcd"),
        evidence={"image_features": images.astype(np.float32),
                  "text_features": text.astype(np.float32)})

  @parameterized.parameters(*predicted.FULL)
  @pytest.mark.slow
  def test_equals_a_loop_over_splits(self, method):
    one = self._predictions()
    row = predicted.measure_full(one, method=method, num_splits=3, seed=1)
    images, text = (one.evidence[name].astype(np.float64)
                    for name in ("image_features", "text_features"))
    call = {"ss_text": lambda data: full.ss_text(
        data, logit_scale=20.0, temperature=0.05),
            "so_lda": lambda data: full.so_lda(data, logit_scale=20.0)}[method]
    found = []
    with jax.enable_x64(True):
      for key in jax.random.split(jax.random.key(1), 3):
        order = np.asarray(jax.random.permutation(jax.random.split(key)[0], 60))
        cal, test = order[:30], order[30:]
        p = call(full.Data(images[cal], one.labels[cal], images[test], text))
        found.append(coverage.measure(
            np.asarray(p) > 0.1 + 1e-9, one.labels[test], 0.1))
      found = jax.tree.map(np.asarray, found)
    for name in ("coverage", "mean_size", "singletons", "class_gap"):
      self.assertAlmostEqual(row[name], np.mean(
          [getattr(split, name) for split in found]), 12, name)
    self.assertAlmostEqual(row["promised_mean"], 28 / 31)
    self.assertEqual((row["score"], row["num_tested"]), (method, 30))

  def test_splits_are_those_of_measure_and_text_features_tuned_or_not(self):
    one = self._predictions()
    there = dict(one.evidence)
    there["zero_shot_text_features"] = there.pop("text_features")
    self.assertEqual(
        predicted.measure_full(one._replace(evidence=there), num_splits=2),
        predicted.measure_full(one, num_splits=2))
    plain = predicted.measure(one, num_splits=2)
    adapted = predicted.measure_full(one, num_splits=2)
    self.assertEqual(plain["class_gap_floor"], adapted["class_gap_floor"])

  def test_refusals(self):
    one = self._predictions()
    few = {"image_features": one.evidence["image_features"]}
    other = one.logits + np.float32(3) * (np.arange(4) == 2)
    for changed, message in (
        (one._replace(evidence=few), "not there.*=image_features,zero_shot_t"),
        (one._replace(logits=other.astype(np.float32)), "off by up to 2"),
        (one._replace(logits=-one.logits), "times a scale"),
        (one._replace(labels=None), "have no labels")):
      with self.assertRaisesRegex(ValueError, message):
        predicted.measure_full(changed)
    with self.assertRaisesRegex(ValueError, "unknown full conf.*mean so_lda"):
      predicted.measure_full(one, method="so_lad")


if __name__ == "__main__":
  absltest.main()
