"""Reports of files: numbers as of `evaluate`, and who is compared with whom."""

import json
import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pytest

from jaxcal import predictions
from jaxcal.recalibration import predicted
from jaxcal.report import from_files
from jaxcal.report import measured
from jaxcal.report import recalibrated
from jaxcal.report import redrawn
from jaxcal.report import saved_runs
from jaxcal.report import summary

_QUICK = summary.Conventions(num_bins=10, num_resamples=20)


def _data(seed, n=60, k=5):
  rng = np.random.default_rng(seed)
  logits = 2 * rng.normal(size=(n, k))
  labels = np.where(rng.random(n) < 0.6, logits.argmax(-1),
                    rng.integers(k, size=n))
  return logits, labels


def _softmax(logits):
  exponentials = np.exp(logits - logits.max(-1, keepdims=True))
  return exponentials / exponentials.sum(-1, keepdims=True)


class FromFilesTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)
    self.output = self.folder / "report"
    self.logits, self.labels = _data(0)

  def _save(self, name, **arrays):
    path = self.folder / f"{name}.npz"
    np.savez(path, **arrays)
    return path

  def _write(self, output=None, **files):
    return from_files.write(
        from_files.plan(files, conventions=_QUICK, data="birds"),
        output or self.output)

  def _rows(self, name="results"):
    return saved_runs.rows(self.output, name)

  def _compared(self):
    return [(row["method"], row["reference"])
            for row in self._rows("differences")]

  @pytest.mark.slow
  def test_the_numbers_are_those_of_evaluate(self):
    # Two decimals lie on the edges of bins, where the logarithm of float32
    # would move them.
    rounded = np.round(_softmax(self.logits), 2)
    rounded[:, 0] += 1 - rounded.sum(-1)
    confidence, hits = rounded.max(-1), rounded.argmax(-1) == self.labels
    written = self._write(
        plain=self._save("plain", logits=self.logits, labels=self.labels),
        rounded=self._save("rounded", probs=rounded, labels=self.labels),
        top=self._save("top", confidence=confidence, label=self.labels,
                       predicted=rounded.argmax(-1)))
    wanted = summary.evaluate(
        {"plain": self.logits, "rounded": rounded, "top": confidence},
        {"plain": self.labels, "rounded": self.labels, "top": hits},
        conventions=_QUICK)
    for found, others in ((self._rows(), wanted.rows),
                          (self._rows("differences"), wanted.differences)):
      self.assertEqual(found, [{"data": "birds", **row} for row in others])
    self.assertEqual(self._compared(),
                     [("rounded", "plain"), ("top", "plain")])
    for text in (written.text, (self.output / "report.html").read_text()):
      for said in ("top, from top.npz: confidences of the top label for 60 "
                   "images; NLL, Brier score, recalibration and conformal sets "
                   "need all classes",
                   "rounded, from rounded.npz: probabilities of 5 classes",
                   "top is compared with plain row by row"):
        self.assertIn(said, text)
    self.assertTrue((self.output / "diagram-birds.svg").exists())
    self.assertIn("plain.npz, SHA-256 ",
                  saved_runs.about(self.output)["files.plain"])

  @pytest.mark.slow
  def test_what_is_saved_can_be_recalibrated(self):
    other_logits, other_labels = _data(1)
    for output, logits, labels in (
        (self.output, self.logits, self.labels),
        (self.folder / "validation", other_logits, other_labels)):
      self._write(
          output,
          plain=self._save("plain", logits=logits, labels=labels),
          top=self._save("top", confidence=np.full(60, 0.5), label=labels,
                         predicted=labels))
    saved = predictions.load(self.output / "predictions" / "birds" / "plain")
    predictions.check(saved)
    np.testing.assert_allclose(saved.logits, self.logits, rtol=1e-6)
    on = predictions.load(
        self.folder / "validation" / "predictions" / "birds" / "plain")
    found = predicted.recalibrate_quietly(saved, on, recalibrated.plan(
        self.output, recalibrated.Share(0.5)).calibrator)
    plan = recalibrated.plan(self.output, self.folder / "validation")
    recalibrated.write(plan, self.folder / "better")
    rows = saved_runs.rows(self.folder / "better", "results")
    self.assertEqual([row.get("recalibrator") for row in rows],
                     [None, "temperature"])
    self.assertEqual(rows[1]["nll"],
                     summary.summarise(found, _QUICK)["nll"])
    # That is a run like others, but for what it is of.
    redrawn.write(self.folder / "better", output=self.folder / "again")
    with self.assertRaisesRegex(ValueError, "are among those to fit to"):
      recalibrated.plan(self.output, self.output)

  def test_matched_by_ids(self):
    ids = np.array([f"{i}.jpg" for i in range(60)])
    order = np.random.default_rng(2).permutation(60)
    worse = self.logits * 0.5
    self._write(
        a=self._save("a", logits=self.logits, labels=self.labels, ids=ids),
        b=self._save("b", logits=worse[order], labels=self.labels[order],
                     ids=ids[order]),
        c=self._save("c", logits=worse, labels=self.labels))
    self.assertEqual(self._compared(), [("b", "a"), ("c", "a")])
    first, second = self._rows("differences")
    self.assertEqual(first | {"method": "c"}, second)
    saved = predictions.load(self.output / "predictions" / "birds" / "b")
    self.assertEqual(saved.ids, tuple(ids))

  @parameterized.parameters(
      ("the labels of 60 of 60 images differ", 1, 60, False),
      ("40 images and 60", 0, 40, False),
      ("2 ids are in one of them only", 0, 60, True))
  @pytest.mark.slow
  def test_of_other_images(self, message, shift, number, ids):
    other, rows = (self.labels + shift) % 5, slice(number)
    names = lambda last: {"ids": np.array(
        [*map(str, range(59)), last])} if ids else {}
    written = self._write(
        a=self._save("a", logits=self.logits, labels=self.labels, **names("x")),
        b=self._save("b", logits=self.logits[rows], labels=other[rows],
                     **names("y")))
    self.assertEqual(self._compared(), [])
    self.assertIn(f"b is not compared with a image by image: {message}",
                  written.text)
    self.assertLen(self._rows(), 2)

  @pytest.mark.slow
  def test_classes_in_another_order_are_seen_as_the_same(self):
    names = np.array(["a", "b", "c", "d", "e"])
    self._write(
        a=self._save("a", logits=self.logits, labels=names[self.labels],
                     class_names=names),
        b=self._save("b", logits=self.logits[:, ::-1],
                     labels=names[self.labels], class_names=names[::-1]))
    self.assertEqual(self._compared(), [("b", "a")])
    one, other = self._rows()
    self.assertAlmostEqual(one["ece"], other["ece"], places=12)

  def test_labels_of_their_own(self):
    np.save(self.folder / "a.npy", self.logits)
    np.save(self.folder / "labels.npy", self.labels)
    from_files.write(from_files.plan(
        {"a": self.folder / "a.npy"}, labels=self.folder / "labels.npy",
        conventions=_QUICK), self.output)
    row, = self._rows()
    self.assertEqual(row["accuracy"], np.mean(
        self.logits.argmax(-1) == self.labels))
    self.assertIn("files.labels", saved_runs.about(self.output))

  @pytest.mark.slow
  def test_a_folder_is_of_the_same_files(self):
    path = self._save("a", logits=self.logits, labels=self.labels)
    self._write(a=path)
    self._write(a=path)
    self._save("a", logits=2 * self.logits, labels=self.labels)
    before = (self.output / "results.jsonl").read_bytes()
    with self.assertRaisesRegex(ValueError, "holds another run"):
      self._write(a=path)
    self.assertEqual((self.output / "results.jsonl").read_bytes(), before)
    with self.assertRaisesRegex(ValueError, "give the files again"):
      redrawn.write(self.output)

  def test_refused_before_anything_is_written(self):
    path = self._save("a", logits=self.logits, labels=self.labels)
    for files, error, message in (
        ({"a": path, "b": self.folder / "b.npz"}, FileNotFoundError, "no file"),
        ({"..": path}, ValueError, "cannot be the name of a file"),
        ({"a": path, "b": self._save("c", logits=self.logits)}, ValueError,
         "c.npz has no labels")):
      with self.assertRaisesRegex(error, message):
        self._write(**files)
    self.assertFalse(self.output.exists())

  def test_measured_as_a_run(self):
    """What was told of files is no part of a run's rows."""
    path = self._save("tpt", logits=self.logits, labels=self.labels)
    written = self._write(tpt=path)
    self.assertIsInstance(written, measured.Written)
    row, = map(json.loads, (self.output / "results.jsonl").read_text(
        ).splitlines())
    self.assertEqual((row["data"], row["method"]), ("birds", "tpt"))


if __name__ == "__main__":
  absltest.main()
