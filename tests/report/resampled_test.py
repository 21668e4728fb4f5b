"""Differences, tests and winners: against plain loops, and by simulation."""

import itertools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np
import pytest
from scipy import stats

from jaxcal.metrics import statistics
from jaxcal.report import inputs
from jaxcal.report import resampled
from jaxcal.report import scores
from jaxcal.report import summary
from jaxcal.report import tables
from tests import error_bars

_QUICK = summary.Conventions(num_resamples=60)


def _given(logits, labels):
  return inputs.Given("logits", logits, labels, tuple(map(str, labels)))


def _methods(num_methods=3, n=80, k=4, seed=0, noise=1.0):
  """Methods that are alike, but for their noise."""
  rng = np.random.default_rng(seed)
  truth = 2 * rng.normal(size=(n, k))
  labels = (truth + rng.gumbel(size=(n, k))).argmax(-1)
  return {f"method {i}": truth + noise * rng.normal(size=(n, k))
          for i in range(num_methods)}, labels


def _loop_scores(logits, labels):
  """Accuracy, ECE, NLL, Brier and AURC of some examples."""
  probs = np.exp(logits - logits.max(-1, keepdims=True))
  probs /= probs.sum(-1, keepdims=True)
  confidence, hits = probs.max(-1), probs.argmax(-1) == labels
  bins = np.ceil(confidence * 20).astype(int)
  wrong = ~hits[np.argsort(-confidence, kind="stable")]
  return {
      "accuracy": hits.mean(),
      "ece": sum(abs((confidence - hits)[bins == b].sum())
                 for b in range(1, 21)) / len(labels),
      "nll": -np.log(probs[np.arange(len(labels)), labels]).mean(),
      "brier": np.square(probs - np.eye(probs.shape[1])[labels]).sum(-1).mean(),
      "aurc": np.mean(np.cumsum(wrong) / np.arange(1, len(labels) + 1))}


def _loop_p_values(ours, theirs, labels, conventions):
  """Two-sided p-values, one resample and one score at a time."""
  with jax.enable_x64(True):  # other integers would be other resamples
    keys = jax.random.split(jax.random.key(conventions.seed),
                            conventions.num_resamples)
    at = [np.repeat(np.arange(len(labels)), np.asarray(
        statistics.resample_weights(key, len(labels))).astype(int))
          for key in keys]
  minus = lambda rows: {
      name: value - _loop_scores(theirs[rows], labels[rows])[name]
      for name, value in _loop_scores(ours[rows], labels[rows]).items()}
  whole, each = minus(np.arange(len(labels))), [minus(rows) for rows in at]
  found = {}
  for name, estimate in whole.items():
    values = [one[name] for one in each]
    centred = [value - np.mean(values) + estimate for value in values]
    below, above = (
        sum(sign * one <= 1e-15 or abs(value) < 1e-15
            for one, value in zip(centred, values)) for sign in (1, -1))
    found[name] = min(2 * (min(below, above) + 1) / (len(values) + 1), 1)
  only = np.sign((ours.argmax(-1) == labels) * 1.0 -
                 (theirs.argmax(-1) == labels))
  found["accuracy"] = max(found["accuracy"], stats.binomtest(
      int((only > 0).sum()), int((only != 0).sum())).pvalue)
  return found


def _loop_holm(values):
  order = np.argsort(values, kind="stable")
  found, least = np.zeros(len(values)), 0
  for place, index in enumerate(order):
    least = max(least, min((len(values) - place) * values[index], 1))
    found[index] = least
  return found


class DifferencesTest(parameterized.TestCase):

  @pytest.mark.slow
  def test_p_values_and_winners_are_those_of_loops(self):
    methods, labels = _methods()
    methods["method 1"] = methods["method 1"] * 0.8 + 2 * np.eye(4)[labels]
    sampled = {name: resampled.of(_given(one, labels), _QUICK)
               for name, one in methods.items()}
    for a, b in itertools.combinations(methods, 2):
      row = resampled.difference_row(sampled[a], sampled[b], 0.95)
      for name, value in _loop_p_values(
          methods[a], methods[b], labels, _QUICK).items():
        self.assertAlmostEqual(row[f"{name}_difference_p"], value, 9, msg=name)
    claims = {}
    for name in scores.SCORES:
      value = {of: _loop_scores(one, labels)[name]
               for of, one in methods.items()}
      lead = (max if name == "accuracy" else min)(value, key=value.get)
      claims[name] = lead, max(
          _loop_p_values(methods[lead], one, labels, _QUICK)[name]
          for of, one in methods.items() if of != lead)
    for level in (0.95, 0.6):
      expected = {of: [] for of in methods}
      for (name, (lead, _)), value in zip(claims.items(), _loop_holm(
          [value for _, value in claims.values()])):
        if value <= 1 - level:
          expected[lead].append(name)
      self.assertEqual(resampled.best(sampled, level), expected)
    # At both levels something and not everything is claimed.
    self.assertNotEmpty(expected["method 1"])

  def test_a_few_images_decide_nothing(self):
    methods, labels = _methods(1, n=250)
    ours = methods["method 0"]
    right = np.flatnonzero(ours.argmax(-1) == labels)
    for number, expected in ((0, 1), (1, 1), (4, 0.125), (5, 0.0625)):
      theirs = ours.copy()
      theirs[right[:number], labels[right[:number]]] -= 50
      a, b = (resampled.of(_given(one, labels), summary.Conventions(
          num_resamples=400)) for one in (ours, theirs))
      value = resampled.p_values(resampled.difference(a, b))["accuracy"]
      self.assertAlmostEqual(value, expected)
      self.assertNotIn("accuracy", resampled.best({"a": a, "b": b}, 0.95)["a"])

  def test_rounding_is_no_difference(self):
    methods, labels = _methods(1)
    one = resampled.of(_given(methods["method 0"], labels), _QUICK)
    other = one._replace(estimates=one.estimates + 1e-15,
                         samples=one.samples + 1e-15)
    self.assertEqual(set(resampled.p_values(
        resampled.difference(one, other)).values()), {1.0})
    self.assertEqual(resampled.best({"a": one, "b": other}, 0.95),
                     {"a": [], "b": []})

  def test_one_method_is_the_best_of_nothing(self):
    methods, labels = _methods(1)
    one = resampled.of(_given(methods["method 0"], labels), _QUICK)
    self.assertEqual(resampled.best({"a": one}, 0.95), {"a": []})

  @pytest.mark.slow
  def test_of_confidences_what_there_is_is_compared(self):
    methods, labels = _methods(2)
    probs = np.asarray(jax.nn.softmax(methods["method 0"]))
    top = inputs.Given("confidences", probs.max(-1).astype(float),
                       probs.argmax(-1) == labels)
    one = resampled.of(top, _QUICK)
    whole = resampled.of(_given(methods["method 1"], labels), _QUICK)
    self.assertEqual(resampled.difference(one, whole).names,
                     ("accuracy", "ece", "aurc", "gap"))
    self.assertEqual(resampled.mean([whole, one]).names,
                     ("accuracy", "ece", "aurc", "gap"))

  @pytest.mark.slow
  def test_a_winner_is_bold_and_a_sentence_says_so(self):
    methods, labels = _methods(2, n=200)
    methods["right"] = 3 * np.eye(4)[labels]
    found = summary.evaluate(
        methods, labels, conventions=summary.Conventions(num_resamples=300))
    self.assertEqual([row["best"] for row in found.rows[:2]], [[], []])
    # Of the ECE and AURC too, as nothing is wrong.
    self.assertContainsSubset(
        ["accuracy", "nll", "brier"], found.rows[2]["best"])
    lines = str(found).splitlines()
    self.assertIn("| **100.0 [98.2, 100.0]** |", lines[4])
    self.assertNotIn("**", "".join(lines[:4]))
    self.assertIn("Bold: the best method of its set by this score, at 5 %",
                  str(found))
    alike = summary.evaluate(
        {"a": methods["right"], "b": methods["right"]}, labels,
        conventions=_QUICK)
    self.assertNotIn("**", str(alike))
    self.assertIn("No number is bold", str(alike))
    self.assertEqual(tables.best_notes(
        summary.evaluate(methods["right"], labels, conventions=_QUICK).rows,
        0.95), [])

  def test_p_values_that_cannot_be_small_are_said(self):
    methods, labels = _methods(3)
    few = str(summary.evaluate(methods, labels, conventions=_QUICK))
    # Ten tests, of which none can be below 2 / 61.
    self.assertIn("With 60 resamples the smallest of 10 is 0.33 or more", few)
    self.assertNotIn("or more", tables.p_value_note(
        "this table", [{"ece_difference_p": 0.5}], 1000))


class WinnersTest(parameterized.TestCase):

  @parameterized.parameters((2, 1.0), (8, 1.0), (2, 0.1))
  @pytest.mark.slow
  def test_none_where_methods_are_alike(self, num_methods, noise):
    runs, some = 300, 0
    for run in range(runs):
      methods, labels = _methods(num_methods, n=120, seed=run, noise=noise)
      conventions = summary.Conventions(num_resamples=400)
      found = resampled.best(
          {of: resampled.of(_given(one, labels), conventions)
           for of, one in methods.items()}, 0.95)
      some += any(found.values())
    # At most 5 % of the tables have a bold number.
    self.assertLessEqual(some, error_bars.binomial_band(runs, 0.05)[1])


if __name__ == "__main__":
  absltest.main()
