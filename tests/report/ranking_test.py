"""Rows of failures and outliers: measures, pairs, draws and what is refused."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcal import predictions as predictions_lib
from jaxcal.metrics import failure
from jaxcal.report import ranking
from jaxcal.report import summary

_QUICK = summary.Conventions(num_resamples=30)


def _predictions(seed=0, n=60, k=5, *, strength=2.0, data_seed=0, **changes):
  """Noisy logits for the images that `data_seed` stands for."""
  labels = np.random.default_rng(data_seed).integers(k, size=n)
  noise = np.random.default_rng(seed).normal(size=(n, k))
  logits = noise + strength * np.eye(k)[labels]
  return predictions_lib.Predictions(
      np.asarray(logits, np.float32), np.asarray(labels, np.int32),
      tuple(map(str, range(n))), tuple(map(str, range(k))))._replace(**changes)


class FailuresTest(parameterized.TestCase):

  @pytest.mark.slow
  def test_measures_of_each_method_and_score(self):
    methods = {"a": _predictions(1), "b": _predictions(2, strength=1.0)}
    found = ranking.rank_failures(methods, _QUICK, logit_scale=100.0)
    self.assertLen(found.rows, 2 * 8)
    self.assertEqual(found.notes, [])
    for row in found.rows:
      one = methods[row["method"]]
      logits = one.logits.astype(float)
      hits = logits.argmax(-1) == one.labels
      self.assertAlmostEqual(row["accuracy"], hits.mean(), 12)
      if row["score"] not in ("msp", "mcm", "energy"):
        continue
      with jax.enable_x64(True):
        scores = {
            "msp": jax.nn.softmax(jnp.asarray(logits)).max(-1),
            "mcm": jax.nn.softmax(jnp.asarray(logits) / 100).max(-1),
            "energy": np.log(np.exp(logits).sum(-1))}[row["score"]]
        expected = failure.failure_prediction(scores, hits)
      for name, value in expected._asdict().items():
        self.assertAlmostEqual(row[name], float(value), 9, msg=name)
        self.assertLessEqual(row[f"{name}_low"], row[name])
        self.assertGreaterEqual(row[f"{name}_high"], row[name])
    printed = str(found)
    for text in ("AUGRC %", "b, energy", "a, msp", "FPR95 right %"):
      self.assertIn(text, printed)

  @pytest.mark.slow
  def test_a_method_with_itself(self):
    one = _predictions(1)
    found = ranking.rank_failures({"a": one, "again": one}, _QUICK)
    pairs = [row for row in found.differences if row["method"] == "again"
             and row["reference"] == "a"]
    self.assertLen(pairs, 7)
    for row in pairs:
      for name in ("accuracy", "auroc", "aurc", "augrc"):
        for end in ("", "_low", "_high"):
          self.assertEqual(row[f"{name}_difference{end}"], 0)
        self.assertEqual(row[f"{name}_difference_p"], 1)

  @pytest.mark.slow
  def test_pairs_and_their_tests(self):
    methods = {"good": _predictions(1, n=200, strength=4.0),
               "poor": _predictions(2, n=200, strength=0.3)}
    found = ranking.rank_failures(
        methods, _QUICK._replace(num_resamples=400), reference="poor")
    by = {(row["method"], row["score"], row["reference"],
           row["reference_score"]): row for row in found.differences}
    self.assertLen(by, 7 + 2 * 6)
    row = by["good", "msp", "poor", "msp"]
    self.assertGreater(row["accuracy_difference_low"], 0.3)
    # 7 * 4 + 12 * 3 tests, none of which can be below 2 / 401.
    self.assertAlmostEqual(row["accuracy_difference_p"], 64 * 2 / 401, 6)
    between = by["poor", "max_logit", "poor", "msp"]
    self.assertNotIn("accuracy_difference", between)
    rows = {(row["method"], row["score"]): row for row in found.rows}
    self.assertAlmostEqual(
        between["auroc_difference"], rows["poor", "max_logit"]["auroc"]
        - rows["poor", "msp"]["auroc"], 12)

  @pytest.mark.slow
  def test_no_errors(self):
    found = ranking.rank_failures({"a": _predictions(1, strength=20.)}, _QUICK)
    row = found.rows[0]
    self.assertTrue(np.isnan(row["auroc"]))
    self.assertEqual((row["aurc"], row["augrc"]), (0, 0))
    self.assertEqual(row["accuracy"], 1)
    # Not [1, 1]: that is what all resamples are, not what is known.
    self.assertAlmostEqual(row["accuracy_low"], 0.025**(1 / 60), 6)
    self.assertEqual(row["accuracy_high"], 1)
    self.assertIn("all 60 predictions are right", found.notes[0])
    self.assertIn("nan", str(found))

  @pytest.mark.slow
  def test_uncertainties_of_a_posterior(self):
    variance = np.random.default_rng(3).uniform(size=60).astype(np.float32)
    methods = {"a": _predictions(1, info={
        "variance": variance, "image_variance": np.ones(60, np.float32)})}
    found = ranking.rank_failures(methods, _QUICK)
    rows = {row["score"]: row for row in found.rows}
    hits = methods["a"].logits.argmax(-1) == methods["a"].labels
    self.assertAlmostEqual(
        rows["neg_variance"]["auroc"],
        float(failure.failure_prediction(-variance, hits).auroc), 6)
    self.assertEqual(rows["neg_image_variance"]["auroc"], 0.5)
    self.assertLen(found.notes, 1)
    self.assertIn("neg_image_variance is the same", found.notes[0])

  def test_refuses(self):
    one = _predictions(1)
    with self.assertRaisesRegex(ValueError, "one method at least"):
      ranking.rank_failures({}, _QUICK)
    with self.assertRaisesRegex(ValueError, "reference='c'.*'a'"):
      ranking.rank_failures({"a": one}, _QUICK, reference="c")
    with self.assertRaisesRegex(ValueError, "'a' have no labels"):
      ranking.rank_failures({"a": one._replace(labels=None)}, _QUICK)
    with self.assertRaisesRegex(ValueError, "the same images"):
      ranking.rank_failures({"a": one, "b": _predictions(1, n=50)}, _QUICK)
    with self.assertRaisesRegex(ValueError, "divide logits"):
      ranking.rank_failures({"a": one}, _QUICK, logit_scale=0.1)
    for scale in (float("nan"), float("inf"), 0.0, -1.0):
      with self.assertRaisesRegex(ValueError, "logit_scale=.* a positive num"):
        ranking.rank_failures({"a": one}, _QUICK, logit_scale=scale)


class OutliersTest(parameterized.TestCase):

  def _sets(self):
    inside = {"a": _predictions(1, strength=5.), "b": _predictions(2)}
    outside = {name: _predictions(seed, n=40, strength=0., labels=None)
               for name, seed in (("a", 3), ("b", 4))}
    return inside, outside

  @pytest.mark.slow
  def test_measures(self):
    inside, outside = self._sets()
    found = ranking.rank_outliers(inside, outside, _QUICK)
    rows = {(row["method"], row["score"]): row for row in found.rows}
    self.assertLen(rows, 2 * 7)
    for method in inside:
      logits = np.concatenate([
          inside[method].logits, outside[method].logits]).astype(float)
      with jax.enable_x64(True):
        expected = failure.detection(
            failure.max_softmax(logits), np.arange(100) < 60)
      row = rows[method, "msp"]
      self.assertEqual((row["num_images"], row["num_outliers"]), (60, 40))
      for name, value in expected._asdict().items():
        self.assertAlmostEqual(row[name], float(value), 9, msg=name)
    self.assertGreater(rows["a", "msp"]["auroc"], 0.9)
    self.assertIn("60, 40", str(found))
    self.assertIn("FPR95 out %", str(found))

  @pytest.mark.slow
  def test_shares_of_both_kinds_stay(self):
    # A score that tells nothing has the share as its AUPR in every resample.
    inside, outside = self._sets()
    constant = {"variance": np.ones(60, np.float32)}
    inside = {"a": inside["a"]._replace(info=constant)}
    outside = {"a": outside["a"]._replace(
        info={"variance": np.ones(40, np.float32)})}
    row, = [row for row in ranking.rank_outliers(inside, outside, _QUICK).rows
            if row["score"] == "neg_variance"]
    for end in ("", "_low", "_high"):
      self.assertAlmostEqual(row[f"aupr_in{end}"], 0.6, 12)

  def test_refuses(self):
    inside, outside = self._sets()
    with self.assertRaisesRegex(ValueError, r"\['a', 'b'\] and \['a'\]"):
      ranking.rank_outliers(inside, {"a": outside["a"]}, _QUICK)
    other = {name: one._replace(class_names=tuple("vwxyz"))
             for name, one in outside.items()}
    with self.assertRaisesRegex(ValueError, "among the same classes"):
      ranking.rank_outliers(inside, other, _QUICK)


class HeldOutTest(parameterized.TestCase):

  @pytest.mark.slow
  def test_draws(self):
    one = _predictions(1, n=100, k=6)
    found = ranking.rank_held_out_classes(
        {"a": one, "b": one}, num_classes=2, num_draws=25, logit_scale=100.)
    self.assertLen(found.rows, 2 * 8)
    generator, areas = np.random.default_rng(0), []
    for _ in range(25):
      out = generator.choice(6, 2, replace=False)
      logits = failure.dropped(one.logits, out)
      areas.append(float(failure.detection(
          failure.max_softmax(logits), ~np.isin(one.labels, out)).auroc))
    rows = {(row["method"], row["score"]): row for row in found.rows}
    row = rows["a", "msp"]
    self.assertAlmostEqual(row["auroc"], np.mean(areas), 5)
    self.assertAlmostEqual(row["auroc_sd"], np.std(areas, ddof=1), 5)
    self.assertEqual((row["draws"], row["held_out"], row["won"]), (25, 2, 0))
    self.assertBetween(rows["a", "max_logit"]["won"], 0.2, 1)
    for score in ("msp", "mcm", "margin"):
      self.assertEqual(
          {**rows["b", score], "method": "a"}, rows["a", score])
    self.assertIn("draws won %", str(found))

  def test_refuses(self):
    run = ranking.rank_held_out_classes
    one = {"a": _predictions(1)}
    with self.assertRaisesRegex(ValueError, "at least 20 draws"):
      run(one, num_classes=2, num_draws=3)
    for wrong in (0, 4, 5):
      with self.assertRaisesRegex(ValueError, "must leave two of the 5"):
        run(one, num_classes=wrong)
    with self.assertRaisesRegex(ValueError, "no labels"):
      run({"a": one["a"]._replace(labels=None)}, num_classes=2)
    with self.assertRaisesRegex(ValueError, "without images on one side"):
      run({"a": one["a"]._replace(labels=np.zeros(60, np.int32))},
          num_classes=2)


if __name__ == "__main__":
  absltest.main()
