"""Files of other programs: every form, and what is said of the others."""

import pathlib
import sys
import types
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from jaxcal import predictions as predictions_lib
from jaxcal import stages
from jaxcal.report import foreign
from jaxcal.report import formats

_LOGITS = np.array([[2.0, 0.5, -1.0], [0.25, 3.0, 0.0], [0.0, 0.5, 1.5],
                    [1.0, -2.0, 0.75]])
_LABELS = np.array([0, 1, 0, 2])
_PROBABILITIES = np.exp(_LOGITS) / np.exp(_LOGITS).sum(-1, keepdims=True)


def _line(*values):
  return ",".join(map(str, values)) + "\n"


class ForeignTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)

  def _npz(self, name="mine", **arrays):
    path = self.folder / f"{name}.npz"
    np.savez(path, **arrays)
    return path

  def _csv(self, *lines, name="mine"):
    path = self.folder / f"{name}.csv"
    path.write_text("".join(_line(*line) for line in lines), encoding="utf-8")
    return path

  def _fails(self, message, path, error=ValueError, **options):
    with self.assertRaisesRegex(error, message):
      foreign.read(path, **options)

  def _check(self, content, kind="logits", values=_LOGITS):
    self.assertEqual(content.given.kind, kind)
    np.testing.assert_allclose(content.given.values, values)
    np.testing.assert_array_equal(content.given.labels, _LABELS)

  @parameterized.parameters(
      ("logits", "labels", _LOGITS, "logits"),
      ("predictions", "ground_truth", _PROBABILITIES, "probabilities"),
      ("Scores", "y_true", _LOGITS, "logits"),
      ("probs", "targets", _PROBABILITIES, "probabilities"),
      # As it is called, not as it looks.
      ("logits", "label", _PROBABILITIES, "logits"))
  def test_npz(self, name, labels, values, kind):
    content = foreign.read(self._npz(**{name: values, labels: _LABELS}))
    self._check(content, kind, values)
    self.assertIsNone(content.given.ids)
    self.assertEqual(content.class_names, ("0", "1", "2"))
    self.assertEqual(content.notes, (f"{kind} of 3 classes for 4 images",))

  def test_npz_with_names_and_more(self):
    content = foreign.read(self._npz(
        logits=_LOGITS, labels=np.array(["cat", "dog", "cat", "owl"]),
        class_names=np.array(["cat", "dog", "owl"]), ids=np.arange(10, 14),
        features=_LOGITS))
    self._check(content)
    self.assertEqual(content.given.ids, ("10", "11", "12", "13"))
    self.assertEqual(content.class_names, ("cat", "dog", "owl"))
    self.assertEqual(content.truth, ("cat", "dog", "cat", "owl"))
    self.assertIn("not looked at: 'features'", content.notes)

  def test_npy_with_labels_of_their_own(self):
    np.save(self.folder / "mine.npy", _LOGITS)
    np.save(self.folder / "labels.npy", _LABELS)
    labels = foreign.read_labels(self.folder / "labels.npy")
    self._check(foreign.read(self.folder / "mine.npy", labels=labels))
    self._fails("mine.npy has no labels", self.folder / "mine.npy")
    self._fails("neither logits", self.folder / "labels.npy")
    self._fails("has 4 images, .* 3 labels", self.folder / "mine.npy",
                labels=foreign.Labels(_LABELS[:3], None))

  def test_labels_of_their_own_by_id(self):
    path = self._npz(logits=_LOGITS, ids=np.array(list("abcd")))
    labels = self._csv(("filename", "label"), ("d", 2), ("x", 1), ("c", 0),
                       ("b", 1), ("a", 0), name="labels")
    self._check(foreign.read(path, labels=foreign.read_labels(labels)))
    self._fails("has none for 1 ids, the first one 'b'", path,
                labels=foreign.Labels(_LABELS, ("a", "c", "d", "e")))
    with self.assertRaisesRegex(ValueError, "mine.npz has no labels"):
      foreign.read_labels(path)

  def test_csv_with_a_column_for_each_class(self):
    rows = [(f"{i}.jpg", *values, name) for i, (values, name) in enumerate(
        zip(_LOGITS, ("cat", "dog", "cat", "owl")))]
    content = foreign.read(
        self._csv(("image", "cat", "dog", "owl", "label"), *rows))
    self._check(content)
    self.assertEqual(content.given.ids, ("0.jpg", "1.jpg", "2.jpg", "3.jpg"))
    self.assertEqual(content.class_names, ("cat", "dog", "owl"))

  @parameterized.parameters(("logit_", _LOGITS, "logits"),
                            ("prob_", _PROBABILITIES, "probabilities"))
  def test_csv_with_prefixes(self, prefix, values, kind):
    content = foreign.read(self._csv(
        ("note", "label", *(prefix + name for name in ("a", "y", "id"))),
        *(("new", label, *row) for label, row in zip(_LABELS, values))))
    self._check(content, kind, values)
    self.assertEqual(content.class_names, ("a", "y", "id"))
    self.assertIn("not looked at: 'note'", content.notes)

  def test_labels_that_are_numbers_and_names(self):
    """Headings that count from 1 make every label a name, or none."""
    heading = ("label", "1", "2", "3")
    rows = [(label + 1, *row) for label, row in zip(_LABELS, _LOGITS)]
    self._check(foreign.read(self._csv(heading, *rows)))
    self._fails("row 1, the label: '0', expected the name of a class, such as "
                "'1' and '3'", self._csv(heading, *(
                    (label, *row) for label, row in zip(_LABELS, _LOGITS))))

  @parameterized.parameters("", "\ufeff")
  def test_confidences(self, mark):
    path = self._csv(
        (f"{mark}true_label", "pred_label", "confidence", "seconds"),
        (3, 3, 0.9, 1), (2, 3, 0.5, 1), (1, 1, 1.0, 2))
    content = foreign.read(path)
    self.assertEqual(content.given.kind, "confidences")
    np.testing.assert_array_equal(content.given.values, [0.9, 0.5, 1.0])
    np.testing.assert_array_equal(content.given.labels, [True, False, True])
    self.assertEqual(content.truth, ("3", "2", "1"))
    self.assertIsNone(content.class_names)
    self.assertRegex(content.notes[0], "NLL, Brier score, recalibration and "
                     "conformal sets need all classes")
    self.assertIn("not looked at: 'seconds'", content.notes)
    with self.assertRaisesRegex(ValueError, "confidences alone"):
      foreign.load(path)

  def test_confidences_with_names_or_hits(self):
    content = foreign.read(self._npz(
        label=np.array(["cat", "dog"]), predicted=np.array(["cat", "owl"]),
        confidence=np.array([0.5, 0.25], np.float32)))
    np.testing.assert_array_equal(content.given.labels, [True, False])
    content = foreign.read(self._csv(
        ("correct", "confidence"), ("True", 0.5), ("false", 0.25), (1, 0.75)))
    np.testing.assert_array_equal(content.given.labels, [True, False, True])
    self.assertIsNone(content.truth)

  def test_predictions_for_everything_else(self):
    path = self._npz(probabilities=np.append(
        _PROBABILITIES, [[1.0, 0.0, 0.0]], axis=0), labels=[*_LABELS, 0])
    found = foreign.load(path)
    predictions_lib.check(found)
    self.assertEqual(found.ids, ("1", "2", "3", "4", "5"))
    np.testing.assert_allclose(
        found.logits[:4], np.log(_PROBABILITIES), rtol=1e-6)
    np.testing.assert_allclose(
        found.logits[4], [0, -126 * np.log(2), -126 * np.log(2)], rtol=1e-6)

  def test_predictions_of_our_own_keep_all_that_they_have(self):
    settings = {"numbers": {"weight": 2.0},
                **stages.setting(stages.Stages("coop", ("dor",), 1))}
    one = predictions_lib.Predictions(
        _LOGITS.astype(np.float32), _LABELS.astype(np.int32), tuple("abcd"),
        ("cat", "dog", "owl"), settings=settings,
        evidence={"zero_shot_logits": np.ones((4, 3), np.float32)})
    predictions_lib.save(one, self.folder / "coop+dor-1")
    content = foreign.read(self.folder / "coop+dor-1.npz")
    self._check(content)
    self.assertEqual(content.given.settings["numbers"], {"weight": 2.0})
    self.assertIn("zero_shot_logits", content.saved.evidence)
    labels = foreign.Labels(np.array(["owl", "dog", "cat", "cat"]), None)
    content = foreign.read(self.folder / "coop+dor-1.npz", labels=labels)
    np.testing.assert_array_equal(content.saved.labels, [2, 1, 0, 0])
    predictions_lib.save(one._replace(labels=None), self.folder / "plain")
    self._fails("plain.npz has no labels", self.folder / "plain.npz")

  def test_parquet(self):
    (self.folder / "mine.parquet").write_bytes(b"")
    with mock.patch.dict(sys.modules, {"pyarrow": None}):
      self._fails("pip install pyarrow, or write the table as .csv",
                  self.folder / "mine.parquet", error=ImportError)
    for table in (
        {"label": _LABELS.tolist(), "path": list("abcd"),
         **dict(zip(("cat", "dog", "owl"), _LOGITS.T.tolist()))},
        {"labels": _LABELS.tolist(), "ids": list("abcd"),
         "logits": _LOGITS.tolist()}):
      # What pyarrow makes of such a file.
      read = mock.Mock(return_value=mock.Mock(
          to_pydict=mock.Mock(return_value=table)))
      with mock.patch.dict(sys.modules, {"pyarrow": types.SimpleNamespace(
          parquet=types.SimpleNamespace(read_table=read))}):
        content = foreign.read(self.folder / "mine.parquet")
      self._check(content)
      self.assertEqual(content.given.ids, tuple("abcd"))

  def test_a_real_parquet(self):
    try:
      import pyarrow
      from pyarrow import parquet
    except ImportError:
      self.skipTest("pyarrow is absent; only a stand-in for it was read")
    path = self.folder / "mine.parquet"
    parquet.write_table(pyarrow.table({
        "label": _LABELS, "0": _LOGITS[:, 0], "1": _LOGITS[:, 1],
        "2": _LOGITS[:, 2]}), path)
    self._check(foreign.read(path))
    parquet.write_table(pyarrow.table({
        "labels": _LABELS, "logits": _LOGITS.tolist()}), path)
    self._check(foreign.read(path))
    path.write_bytes(b"PAR1")
    self._fails("no whole .parquet", path)
    parquet.write_table(pyarrow.table(
        {"cat": [[1.0], [2.0, 3.0]], "label": [0, 1]}), path)
    self._fails("no whole .parquet.*write it again", path)
    parquet.write_table(pyarrow.table(
        {"cat": [[1.0] * 3] * 2, "dog": [1.0, 2.0], "label": [0, 1]}), path)
    self._fails("'cat': expected one number or text per image", path)

  @parameterized.parameters(
      ({"logits": _LOGITS}, "has no labels; expected an array or column"),
      ({"labels": _LABELS}, "neither logits or probabilities"),
      ({"logits": _LOGITS, "labels": [0, 1, 3, 2]},
       "row 3, the label: 3, expected the position of one of 3 classes"),
      ({"logits": _LOGITS, "labels": [0.0, 0.5, 1, 2]}, "row 1, the label"),
      ({"logits": _LOGITS, "labels": _LABELS[:3]}, r"labels .*\(4,\).*\(3,\)"),
      ({"logits": _LOGITS, "labels": _LABELS, "target": _LABELS},
       "several arrays or columns of labels"),
      ({"logits": _LOGITS, "probs": _LOGITS, "labels": _LABELS},
       "several arrays of logits"),
      ({"logits": _LOGITS[0], "labels": _LABELS}, r"shape is \(3,\)"),
      ({"logits": np.array([[0.0, np.nan]]), "labels": [0]},
       "row 1, column 2: nan"),
      ({"scores": 100 * _PROBABILITIES, "labels": _LABELS}, "percent"),
      ({"scores": 0.5 * _PROBABILITIES, "labels": _LABELS},
       "row 1: all values lie in .* sums to 0.5, and 3 others"),
      ({"logits": _LOGITS, "labels": _LABELS, "ids": list("abca")},
       "row 4, the id: 'a' is that of row 1"),
      ({"logits": _LOGITS, "labels": _LABELS, "class_names": list("aab")},
       "3 classes need as many different names"),
      ({"logits": _LOGITS, "labels": np.array([{}], object)}, "allow_pickle"),
      ({"confidence": [0.5, 72.5], "label": [1, 2], "predicted": [1, 1]},
       "row 2, the confidence: 72.5, expected in"),
      ({"confidence": [0.5, np.nan], "label": [1, 2], "predicted": [1, 1]},
       "row 2, the confidence: nan"),
      ({"confidence": [0.5], "label": [1]},
       "has confidences, but no predicted"),
      ({"confidence": [0.5], "label": [1], "predicted": ["cat"]},
       "both be names"),
      ({"confidence": [0.5, 0.5], "correct": [1, 3]}, "row 2.*'3'"),
      ({"logits": [["1", "2"], ["3", "x"]], "labels": [0, 1]},
       "row 2, column 'logits': 'x', expected a number"),
      ({"logits": _LOGITS, "labels": np.full(4, b"\xff")},
       "'labels': expected texts in UTF-8"),
      ({"logits": _LOGITS, "labels": np.full(4, 1e300)}, "the label"))
  def test_refused_arrays(self, arrays, message):
    self._fails(f"mine.npz.*{message}", self._npz(**{
        name: np.asarray(values) for name, values in arrays.items()}))

  def test_what_is_said_of_numbers_in_the_unit_interval(self):
    path = self._npz(scores=0.5 * _PROBABILITIES, labels=_LABELS)
    content = foreign.read(path, kind="logits")
    self._check(content, "logits", 0.5 * _PROBABILITIES)
    self._fails("must sum to one", path, kind="probabilities")

  @parameterized.parameters(
      ([("label", "a", "b"), (0, 1, 2), (0, 1, "x")],
       "row 2, column 'b': 'x', expected a number"),
      ([("label", "a", "b"), (0, 1, 2), (0, 1)],
       "row 2: 2 values, expected 3"),
      ([("label", "a", "b"), (0, "inf", 2)], "row 1, column 'a': inf"),
      ([("label", "a", "a"), (0, 1, 2)], r"different headings .*\['a'\]"),
      ([("label", "a", "b")], "has headings, but no rows"),
      ([("label", "predicted", "confidence"), (0, 0, "high")],
       "row 1, column 'confidence': 'high'"),
      ([("label", "predicted", "confidence")], "has headings, but no rows"),
      ([("0", "1"), (0.1, 0.2)], "has no labels"),
      ([], "there are none"))
  def test_refused_tables(self, lines, message):
    self._fails(f"mine.csv.*{message}", self._csv(*lines))

  def test_refused_files(self):
    self._fails("no file .*nowhere.csv", self.folder / "nowhere.csv",
                error=FileNotFoundError)
    for name, content, message in (
        ("mine.pt", b"", "'.pt', expected one of .npz.*numpy.savez"),
        ("mine", b"", "'nothing', expected"),
        ("mine.npz", b"no zip", "mine.npz: not a whole .npz"),
        ("mine.npy", b"no array", "mine.npy is no whole .npy"),
        ("mine.csv", b"label,\xff\n", "no CSV in UTF-8")):
      (self.folder / name).write_bytes(content)
      self._fails(message, self.folder / name)
    np.save(self.folder / "mine.npy", np.array([{}], object),
            allow_pickle=True)
    self._fails("no whole .npy.*allow_pickle", self.folder / "mine.npy")

  def test_texts_of_numbers(self):
    self._check(foreign.read(self._npz(
        logits=_LOGITS.astype(str), labels=_LABELS)), "logits", _LOGITS)

  def test_names(self):
    (self.folder / "a=b.csv").touch()
    path = str(self.folder / "a=b.csv")
    self.assertEqual(
        foreign.by_name(["x/tpt.npz", "ours=y/tpt.npz", path]),
        {"tpt": "x/tpt.npz", "ours": "y/tpt.npz", "a=b": path})
    with self.assertRaisesRegex(ValueError, "NAME=y/tpt.npz"):
      foreign.by_name(["x/tpt.npz", "y/tpt.npz"])
    self.assertTrue(foreign.are_files(["nowhere.csv"]))
    self.assertTrue(foreign.are_files(["one", "two.npz"]))
    self.assertFalse(foreign.are_files(["one", "two"]))  # several runs
    self.assertTrue(foreign.are_files([path]))
    self.assertFalse(foreign.are_files([str(self.folder)]))
    self.assertFalse(foreign.are_files(["nowhere"]))

  def test_every_name_has_one_role(self):
    names = [name for role in formats.NAMES.values() for name in role]
    self.assertLen(set(names), len(names))


if __name__ == "__main__":
  absltest.main()
