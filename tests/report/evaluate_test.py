"""Arrays of any kind to rows: against loops and scikit-learn, and refusals."""

import logging
import math
import warnings

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics

from jaxcal import predictions as predictions_lib
from jaxcal.report import resampled
from jaxcal.report import scores
from jaxcal.report import summary
from jaxcal.report import tables
from tests import tensors

_QUICK = summary.Conventions(num_resamples=20)


# What holds the numbers, and to how many digits.
_HOLDERS = {
    "numpy": (np.asarray, 10), "jax": (jnp.asarray, 5),
    "list": (lambda values: np.asarray(values).tolist(), 10)}
_TENSORS = {"plain": (tensors.tensor, 5), "learning": (tensors.learning, 5)}


def _data(seed=0, n=60, k=5):
  rng = np.random.default_rng(seed)
  logits = 2 * rng.normal(size=(n, k))
  labels = np.where(rng.random(n) < 0.6, logits.argmax(-1),
                    rng.integers(k, size=n))
  return logits, labels


def _softmax(logits):
  exponentials = np.exp(logits - logits.max(-1, keepdims=True))
  return exponentials / exponentials.sum(-1, keepdims=True)


def _predictions(logits, labels, **changes):
  n, k = logits.shape
  return predictions_lib.Predictions(
      np.asarray(logits, np.float32), np.asarray(labels, np.int32),
      tuple(map(str, range(n))), tuple(map(str, range(k))))._replace(**changes)


def _by_loops(confidences, hits):
  """Measures of the predicted class, one example at a time."""
  bins, n = [[] for _ in range(20)], len(hits)
  for confidence, hit in zip(confidences, hits):
    bins[max(math.ceil(confidence * 20) - 1, 0)].append(confidence - hit)
  order = sorted(range(n), key=lambda i: -confidences[i])
  wrong = [1 - hits[i] for i in order]
  return {
      "accuracy": sum(hits) / n,
      "confidence": sum(confidences) / n,
      "confidence_gap": (sum(confidences) - sum(hits)) / n,
      "ece": sum(abs(sum(gaps)) for gaps in bins) / n,
      "mce": max(abs(sum(gaps)) / len(gaps) for gaps in bins if gaps),
      "aurc": sum(sum(wrong[:kept]) / kept for kept in range(1, n + 1)) / n}


def _expected(probs, labels):
  hits = [int(row.argmax() == label) for row, label in zip(probs, labels)]
  return _by_loops(probs.max(-1).tolist(), hits) | {
      "nll": metrics.log_loss(labels, probs, labels=range(probs.shape[1])),
      "brier": sum((p - (c == label))**2 for row, label in zip(probs, labels)
                   for c, p in enumerate(row)) / len(labels)}


def _differences(ours, theirs):
  ours, theirs = (resampled.of(one, _QUICK) for one in (ours, theirs))
  row = resampled.difference_row(ours, theirs, _QUICK.level)
  return {name: value for name, value in row.items()
          if not name.endswith("_p")}


class EvaluateTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    context = warnings.catch_warnings()
    context.__enter__()
    self.addCleanup(context.__exit__, None, None, None)
    warnings.simplefilter("error")

  def _check(self, row, expected, places=10):
    for name, value in expected.items():
      self.assertAlmostEqual(row[name], value, places, msg=name)

  @parameterized.product(
      holder=tuple(_HOLDERS), kind=("logits", "probabilities"))
  def test_against_loops_and_scikit_learn(self, holder, kind):
    self._check_whole(*_HOLDERS[holder], kind)

  @parameterized.product(
      holder=tuple(_TENSORS), kind=("logits", "probabilities"))
  @pytest.mark.needs("torch")
  def test_tensors_against_loops_and_scikit_learn(self, holder, kind):
    self._check_whole(*_TENSORS[holder], kind)

  def _check_whole(self, hold, places, kind):
    logits, labels = _data()
    given = logits if kind == "logits" else _softmax(logits)
    found = summary.evaluate(hold(given), hold(labels), conventions=_QUICK)
    self.assertEqual(found.kinds, (kind,))
    self.assertEqual(found.differences, [])
    self.assertEqual(found.conventions, _QUICK)
    row, = found.rows
    self._check(row, _expected(_softmax(logits), labels), places)
    self.assertEqual((row["num_images"], row["num_classes"]), (60, 5))
    for name in scores.SCORES:
      self.assertLess(row[f"{name}_low"], row[name])
      self.assertGreater(row[f"{name}_high"], row[name])
    forced = summary.evaluate(hold(given), hold(labels), kind=kind,
                              conventions=_QUICK)
    self.assertEqual(forced, found)

  @parameterized.parameters(*_HOLDERS)
  def test_confidences_and_hits(self, holder):
    self._check_hits(*_HOLDERS[holder])

  @parameterized.parameters(*_TENSORS)
  @pytest.mark.needs("torch")
  def test_tensors_of_confidences_and_hits(self, holder):
    self._check_hits(*_TENSORS[holder])

  def _check_hits(self, hold, places):
    logits, labels = _data()
    probs = _softmax(logits)
    confidences, hits = probs.max(-1), probs.argmax(-1) == labels
    row, = summary.evaluate(
        hold(confidences), hold(hits), conventions=_QUICK).rows
    self._check(row, _by_loops(confidences.tolist(), hits.tolist()), places)
    whole, = summary.evaluate(probs, labels, conventions=_QUICK).rows
    self.assertEqual(set(whole) - set(row), {
        "num_classes", "nll_clamped", "nll", "nll_low", "nll_high", "brier",
        "brier_low", "brier_high"})
    self._check(row, {name: whole[name] for name in row}, places)
    for dtype in (np.int64, np.float32):
      same = summary.evaluate(
          hold(confidences), hits.astype(dtype), conventions=_QUICK)
      self.assertEqual(same.rows, [row])

  def test_predictions_arrays_and_names_agree(self):
    logits, labels = _data()
    logits = np.float32(logits)
    saved = _predictions(
        logits, labels, info={"variance": np.arange(60, dtype=np.float32)})
    row = summary.summarise(saved, _QUICK)
    evaluate = lambda *x: summary.evaluate(*x, conventions=_QUICK).rows
    self.assertEqual(evaluate(saved), [row])
    self.assertEqual(list(evaluate(saved)[0]), list(row))
    self.assertEqual(
        evaluate(saved._replace(labels=None), labels.tolist()), [row])
    named = evaluate({"tpt": saved, "same": logits}, labels)
    # The same numbers, of which none is the best.
    self.assertEqual([one.pop("best") for one in named], [[], []])
    self.assertEqual(named[0], {"method": "tpt", **row})
    self.assertEqual(row.pop("median_variance"), 29.5)
    self.assertEqual(named[1], {"method": "same", **row})
    self.assertEqual(evaluate(logits, labels), [row])
    probs = evaluate(_softmax(logits.astype(float)), labels)
    self._check(probs[0], row)
    # Labels that are given stand before those that come along.
    other = evaluate(saved, (labels + 1) % 5)[0]
    self.assertNotAlmostEqual(other["accuracy"], row["accuracy"], 1)

  def test_paired_differences(self):
    logits, labels = _data()
    ours, theirs = (_predictions(x, labels) for x in (logits, 3 * logits))
    for name, one in (("reference", {"reference": "b"}), ("first", {})):
      with self.subTest(name):
        order = ("a", "b") if one else ("b", "a")
        given = {"a": ours, "b": theirs.logits}
        found = summary.evaluate(
            {name: given[name] for name in order}, labels, conventions=_QUICK,
            **one)
        difference, = found.differences
        p_values = {name: difference.pop(name) for name in list(difference)
                    if name.endswith("_p")}
        self.assertEqual(
            difference, {"method": "a", "reference": "b",
                         **_differences(ours, theirs)})
        self.assertEqual(
            set(p_values), {f"{name}_difference_p" for name in scores.SCORES})
        # The same logits but for their scale have the same accuracy.
        self.assertEqual(p_values["accuracy_difference_p"], 1)
        self.assertEqual([row["method"] for row in found.rows], list(order))
    expected = {
        name: _expected(_softmax(ours.logits.astype(float)), labels)[name] -
              _expected(_softmax(theirs.logits.astype(float)), labels)[name]
        for name in ("ece", "nll", "brier", "aurc")}
    self._check(found.differences[0], {
        f"{name}_difference": value for name, value in expected.items()})

  @pytest.mark.slow
  def test_p_values_are_of_the_whole_table(self):
    logits, labels = _data(n=200)
    worse = {f"noise {i}": np.random.default_rng(i + 1).normal(
        size=logits.shape)
             for i in range(3)}
    quick = _QUICK._replace(num_resamples=400)
    alone, = summary.evaluate(
        {"a": logits, "noise 0": worse["noise 0"]}, labels,
        conventions=quick).differences
    found = summary.evaluate(
        {"a": logits, **worse}, labels, conventions=quick)
    # Of no resample: twice the least share, for 5 and for 15 of them.
    self.assertAlmostEqual(alone["accuracy_difference_p"], 5 * 2 / 401, 9)
    self.assertAlmostEqual(
        found.differences[0]["accuracy_difference_p"], 15 * 2 / 401, 9)
    self.assertIn("p: two-sided, of the bootstrap, by Holm's method over this "
                  "table.", str(found))

  def test_confidences_are_compared_by_what_they_have(self):
    logits, labels = _data()
    probs = _softmax(logits)
    hits = probs.argmax(-1) == labels
    found = summary.evaluate(
        {"softmax": probs, "flat": 0.2 + 0.5 * probs.max(-1)},
        {"softmax": labels, "flat": hits}, conventions=_QUICK)
    self.assertEqual(found.kinds, ("probabilities", "confidences"))
    difference, = found.differences
    self.assertEqual(
        [name for name in difference if name.endswith("_difference")],
        ["accuracy_difference", "ece_difference", "aurc_difference"])
    self.assertEqual(difference["accuracy_difference"], 0)
    softmax, flat = (row["ece"] for row in found.rows)
    self._check(difference, {"ece_difference": flat - softmax})

  @pytest.mark.slow
  def test_other_conventions(self):
    logits, labels = _data()
    narrow, wide = (summary.evaluate(
        logits, labels, conventions=_QUICK._replace(level=level)).rows[0]
        for level in (0.5, 0.95))
    self.assertLess(narrow["nll_high"], wide["nll_high"])
    # A confidence of 1/2 shares the bin of 0.9, or has one of its own.
    for edges, ece in (("left", (0.5 + 0.9 - 1) / 2),
                       ("right", (1 - 0.5 + 0.9) / 2)):
      row, = summary.evaluate(
          [0.5, 0.9], [True, False], conventions=_QUICK._replace(
              num_bins=2, edges=edges)).rows
      self.assertAlmostEqual(row["ece"], ece)
      self.assertAlmostEqual(row["mce"], 0.2 if edges == "left" else 0.9)


class ProbabilitiesTest(parameterized.TestCase):

  @parameterized.parameters(np.float16, np.float32, jnp.bfloat16)
  def test_of_few_digits(self, dtype):
    logits, labels = _data(n=300, k=40)
    probs = np.asarray(jax.jit(jax.nn.softmax)(np.asarray(logits, dtype)))
    found = summary.evaluate(probs, labels, conventions=_QUICK)
    self.assertEqual(found.kinds, ("probabilities",))
    rounded = probs.astype(float)
    self.assertAlmostEqual(
        found.rows[0]["confidence"], rounded.max(-1).mean(), 12)
    self.assertAlmostEqual(
        found.rows[0]["nll"], -np.log(rounded[range(300), labels]).mean(), 10)

  @pytest.mark.slow
  def test_on_the_edge_of_a_bin_they_stay_there(self):
    # Each has a bin of its own, so that the gaps do not cancel.
    confidence = np.arange(11, 20) / 20
    probs = np.stack([confidence, 1 - confidence], -1)
    labels = np.arange(9) % 2
    ece = lambda x: summary.evaluate(
        x, labels, conventions=_QUICK._replace(edges="left")).rows[0]["ece"]
    self.assertAlmostEqual(
        ece(probs), np.abs(confidence - (labels == 0)).mean(), 12)
    # Logarithms and a softmax bring some of them back below their edge.
    self.assertGreater(abs(ece(np.log(probs)) - ece(probs)), 0.01)

  def test_a_probability_of_zero_costs_what_is_documented(self):
    probs = np.array([[1, 0, 0], [0.5, 0.5, 0]])
    row, = summary.evaluate(probs, [2, 0], conventions=_QUICK).rows
    self.assertAlmostEqual(
        row["nll"], (126 * math.log(2) + math.log(2)) / 2, places=10)
    self.assertAlmostEqual(row["nll_clamped"], (15.942385 + math.log(2)) / 2, 6)
    self.assertAlmostEqual(row["brier"], (2 + 0.5) / 2)

  def test_what_does_not_sum_to_one_is_logits(self):
    probs = _softmax(_data()[0])
    for given in (probs * 1.02, probs * 0.98, probs - 0.01, -probs):
      found = summary.evaluate(given, _data()[1], conventions=_QUICK)
      self.assertEqual(found.kinds, ("logits",))
    found = summary.evaluate(
        probs, _data()[1], kind="logits", conventions=_QUICK)
    self.assertLess(found.rows[0]["confidence"], 0.5)


class RefusalTest(parameterized.TestCase):

  @parameterized.parameters(
      (np.zeros((2, 3)), None, "labels are needed, the class of each of the 2"),
      (np.zeros(2), None, "confidences .* need labels=, which say"),
      (np.zeros((2, 3)), [True, False],
       "positions of the true classes, 0 to 2, but they are True and False; "
       "hits go with confidences"),
      (np.zeros((2, 2)), np.array([True, False]), "labels.astype"),
      (np.zeros((2, 3)), np.eye(3, dtype=int)[:2], "from one-hot.*argmax"),
      (np.zeros((2, 3)), np.eye(3)[:2], "from one-hot labels"),
      (np.zeros((2, 3)), np.array([0.0, 2.0]), "integers.*float64.*astype"),
      (np.zeros((2, 3)), ["cat", "dog"], "labels must be the .*<U3; .*index"),
      (np.zeros((2, 3)), [[0], [1]], r"shape \(2,\), .*column: labels\[:, 0"),
      (np.zeros((2, 3)), [0, 1, 2], r"\(2,\).*\(3,\); are .* transposed"),
      (np.zeros((2, 3)), [0, 1, 2, 2], r"shape \(2,\), but .* \(4,\)\.$"),
      (np.zeros((2, 3)), 1, r"shape \(2,\), but their shape is \(\)"),
      (np.zeros((2, 3)), [0, 3], r"\[0, 3\), but they span \[0, 3\]"),
      (np.zeros((2, 3)), [-1, 1], r"span \[-1, 1\]"),
      (np.zeros((2, 3)), [0, 2**32], r"span \[0, 4294967296\]"),
      (np.zeros((0, 3)), [], r"not empty, but their shape is \(0, 3\)"),
      (np.zeros((2, 0)), [0, 0], r"not empty, but .* \(2, 0\)"),
      ([], [], r"not empty, but their shape is \(0,\)"),
      (np.zeros((2, 3, 1)), [0, 1], r"\[images, classes\].* \(2, 3, 1\)"),
      (0.5, [True], r"but their shape is \(\)"),
      ([[1, 2], [3]], [0, 1], "one shape"),
      ([["a", "b"]], [0], "predictions must be numbers, .*<U1"),
      ([[0, 1], [np.nan, 2]], [0, 1], "1 of 2 images .*NaN.* in row 1"),
      ([[np.inf, 1], [0, 2]], [0, 1], "1 of 2 images .* in row 0"),
      ([[-np.inf, 0], [0, 2]], [0, 1], "logarithms of zero .* probabilities"),
      (100 * np.full((2, 4), 0.25), [0, 1], "look like percent; divide by 100"),
      ([0.5, np.nan], [True, False], r"confidences.*\[0, 1\].*nan"),
      ([50, 90], [True, False], r"confidences.* not percent"),
      ([0.5, 1.2], [True, False], r"confidences.*first is 1\.2"),
      ([0.9, 0.8, 0.7], [4, 7, 2],
       "labels beside confidences .* must be hits, .* but 4 is among them; "
       "from class labels: predicted == labels, or give logits"),
      ([0.9, 0.8], [True], r"labels must be one per image, shape \(2,\)"),
  )
  def test_predictions_and_labels(self, given, labels, message):
    with self.assertRaisesRegex(ValueError, message):
      summary.evaluate(given, labels, conventions=_QUICK)
    if np.ndim(labels) == 1 and len(labels) == 2 and len(given) == 2:
      # Also as one of several, by its name.
      with self.assertRaisesRegex(ValueError, f"(?s)^'b': .*{message}"):
        summary.evaluate(
            {"a": _data(n=2)[0], "b": given},
            {"a": [0, 1], "b": labels}, conventions=_QUICK)

  def test_labels_of_zero_and_one_are_labels(self):
    found = summary.evaluate(
        np.eye(3)[[0, 1]] * 9, [0, 1], conventions=_QUICK)
    self.assertEqual(found.rows[0]["accuracy"], 1)

  def test_kinds(self):
    labels = [0, 1]
    for given, message in (
        ([[0.5, 0.2], [0.5, 0.5]], r"1 of 2 rows do not; row 0 sums to 0\.7"),
        ([[1.5, -0.5], [0.5, 0.5]], r"in \[0, 1\].* 2 of 4 .*first is 1\.5"),
        ([[40, 60], [50, 50.5]], "percent; divide by 100")):
      with self.assertRaisesRegex(ValueError, message):
        summary.evaluate(
            given, labels, kind="probabilities", conventions=_QUICK)
    percent = np.array([[40.0, 60], [50, 50]])
    found = summary.evaluate(percent, labels, kind="logits", conventions=_QUICK)
    self.assertAlmostEqual(
        found.rows[0]["confidence"], (1 / (1 + math.exp(-20)) + 0.5) / 2)
    with self.assertRaisesRegex(ValueError, "kind='probs'; choose from: auto"):
      summary.evaluate(percent, labels, kind="probs")
    with self.assertRaisesRegex(ValueError, "one number per image"):
      summary.evaluate([0.5, 0.6], [True, False], kind="logits")

  def test_predictions(self):
    saved = _predictions(*_data())
    for broken, labels, message in (
        (saved._replace(labels=None), None, "carry no labels; pass labels="),
        (saved, [0], r"shape \(60,\), but their shape is \(1,\)"),
        (saved._replace(labels=saved.labels.astype(float)), None, "integers"),
        (saved._replace(logits=saved.logits * np.nan), None, "not finite"),
        (saved._replace(ids=("a",) * 60), None, "'a' occurs more than once")):
      with self.assertRaisesRegex(ValueError, message):
        summary.evaluate(broken, labels)
    unlabelled = saved._replace(labels=None)
    with self.assertRaisesRegex(ValueError, "have no labels"):
      summary.summarise(unlabelled, _QUICK)

  def test_several(self):
    logits, labels = _data()
    saved = _predictions(logits, labels)
    relabelled = saved._replace(labels=np.append(
        (saved.labels[0] + 1) % 5, saved.labels[1:]))
    for given, message in (
        ({}, "at least one name"),
        ({1: saved}, "strings for names"),
        ({"a": saved, "b": predictions_lib.take(saved, range(9))},
         "same images, but there are 60 of 'a' and 9 of 'b'"),
        ({"a": saved, "b": saved._replace(ids=saved.ids[::-1])},
         "in the same order, but the ids of 'a' and 'b' differ"),
        ({"a": saved, "b": relabelled},
         "labels of 'a' and 'b' differ for 1 of 60, first at 0"),
        ({"a": saved, "b": {"c": logits}}, "'b': predictions must be numbers"),
        ({"a": saved, "b": logits}, "'b': labels are needed")):
      with self.assertRaisesRegex(ValueError, message):
        summary.evaluate(given)
    with self.assertRaisesRegex(ValueError, r"names .*\['a'\], but .*\['b'\]"):
      summary.evaluate({"a": logits}, {"b": labels})
    with self.assertRaisesRegex(
        ValueError, r"reference='c' and their names are \['a', 'b'\]"):
      summary.evaluate({"a": saved, "b": saved}, reference="c")
    with self.assertRaisesRegex(ValueError, r"reference='a' .* names are \[\]"):
      summary.evaluate(saved, reference="a")

  def test_conventions(self):
    logits, labels = _data()
    for change, message in (
        ({"num_bins": 0}, "num_bins=0"), ({"edges": "both"}, "edges='both'"),
        ({"level": 95}, "level=95"), ({"num_resamples": 1}, "num_samples=1")):
      with self.assertRaisesRegex(ValueError, message):
        summary.evaluate(logits, labels, conventions=_QUICK._replace(**change))


class TextTest(parameterized.TestCase):

  def test_one_method(self):
    text = str(summary.evaluate(*_data(), conventions=_QUICK))
    heading, _, row, _, legend = text.splitlines()
    self.assertEqual(
        [cell.strip() for cell in heading.strip("|").split("|")],
        ["accuracy %", "ECE %", "floor", "conf - acc", "NLL", "Brier",
         "AURC %"])
    self.assertEqual(len(heading), len(row))
    self.assertRegex(row, r"^\| \d+\.\d \[\d+\.\d, \d+\.\d\] +\| ")
    self.assertEqual(
        legend, "60 images, logits; ECE: 20 right-closed bins; floor: that of "
        "a perfectly calibrated model with these confidences; brackets: 95 % "
        "bootstrap.")

  @pytest.mark.slow
  def test_several_methods(self):
    logits, labels = _data()
    probs = _softmax(logits)
    found = summary.evaluate(
        {"tpt": logits, "halves": probs, "top": probs.max(-1)},
        {"tpt": labels, "halves": labels, "top": probs.argmax(-1) == labels},
        conventions=_QUICK._replace(num_bins=15, edges="left", level=0.9))
    rows, legend, heading, differences, tests = str(found).split("\n\n")
    self.assertStartsWith(tests, "p: two-sided")
    lines = rows.splitlines()
    self.assertTrue(lines[0].startswith("| method | accuracy % "))
    self.assertTrue(lines[2].startswith("| tpt    | "))
    blank = [cell.strip() for cell in lines[4].strip("|").split("|")]
    self.assertEqual((blank[5], blank[6]), ("", ""))
    self.assertLen({len(line) for line in lines}, 1)
    self.assertIn("60 images, logits, probabilities, confidences; ", legend)
    self.assertIn("15 left-closed bins", legend)
    self.assertIn("90 % bootstrap", legend)
    self.assertEqual(heading, "Paired differences:")
    self.assertIn("| halves - tpt | 0.0 [0.0, 0.0]  | 1 | ", differences)
    self.assertIn("| top - tpt ", differences)

  def test_errors_below_their_floor(self):
    # Confidences that are right as often as they say, in every bin.
    confidence = np.repeat([0.25, 0.75], 8)
    hits = np.array([1, 0, 0, 0] * 2 + [1, 1, 1, 0] * 2, bool)
    one = str(summary.evaluate(confidence, hits, conventions=_QUICK))
    self.assertEndsWith(
        one, "The ECE is not above its floor: 16 images are too few to tell it "
        "from that of a calibrated model. Fewer bins have a lower floor.")
    two = summary.evaluate(
        {"a": confidence, "b": 1 - confidence}, hits, conventions=_QUICK)
    self.assertIn("\n\nThe ECE of a is not above its floor", str(two))

  @pytest.mark.slow
  def test_no_minus_zero(self):
    # The likelihood of one class alone is -0.0 before it is written.
    text = str(summary.evaluate(
        np.ones((3, 1)) * 2, np.zeros(3, int), conventions=_QUICK))
    self.assertIn("| 0.000 [0.000, 0.000] |", text)
    self.assertNotIn("-0.0", text)
    self.assertEqual(tables.percent(-1e-9), "0.0")
    self.assertEqual(tables.signed_percent(-1e-9), "0.0")
    self.assertEqual(tables.signed_percent(0.001), "+0.1")
    self.assertEqual(tables.signed_percent(-0.001), "-0.1")


class CompilationTest(absltest.TestCase):

  @pytest.mark.slow
  def test_the_same_shapes_are_compiled_once(self):
    first, second = (_data(seed, n=37, k=3) for seed in (0, 1))
    with jax.log_compiles():
      for kind in ("logits", "probabilities", "confidences"):
        def run(logits, labels):
          probs = _softmax(logits)
          given = {"logits": (logits, labels), "probabilities": (probs, labels),
                   "confidences": (probs.max(-1), probs.argmax(-1) == labels)}
          summary.evaluate(*given[kind], conventions=_QUICK)

        with self.assertLogs("jax", logging.WARNING):
          run(*first)
        with self.assertNoLogs("jax", logging.WARNING):
          run(*second)


if __name__ == "__main__":
  absltest.main()
