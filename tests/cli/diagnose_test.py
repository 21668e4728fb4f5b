"""`jaxcal diagnose`: regularisers at some classes, without any image."""

import json
import pathlib
import re

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pytest

from jaxcal.adapt.prompt import diagnostics
from jaxcal.adapt.prompt import methods
from jaxcal.data import catalogue
from jaxcal.report import diagnosis
from jaxcal.storage import output_folder
from tests.cli import command


def _features(k=6, d=8):
  features = 1 + np.random.default_rng(0).normal(size=(k, d))
  return 3 * features.astype(np.float32)  # of any norm


class DiagnoseTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)

  def _run(self, *arguments):
    return command.here(
        "diagnose", *arguments, f"--output={self.folder / 'out'}")

  def _rows(self):
    text = (self.folder / "out" / "diagnosis.jsonl").read_text()
    return {(row["data"], row["method"]): row
            for row in map(json.loads, text.splitlines())}

  @pytest.mark.slow
  def test_classes_of_a_model(self):
    status, printed, error = self._run(
        "--config.data.name=digits,dtd", "--config.method.name=zero_shot,soc",
        "--config.method.soc.delta=0.6", "--config.method.weight=20")
    self.assertEqual(status, 0, error)
    rows = self._rows()
    self.assertEqual(list(rows), [("digits", "soc"), ("dtd", "soc")])
    row = rows["dtd", "soc"]  # of which no file is at hand
    self.assertEqual(row["num_classes"],
                     len(catalogue.CATALOGUE["dtd"].class_names))
    self.assertEqual((row["weight"], row["margin"]), (20, 0.6))
    self.assertAlmostEqual(
        row["effective_weight_by_context"], 20 * row["norm_by_context"])
    self.assertIn((self.folder / "out" / "diagnosis.md").read_text().strip(),
                  printed)
    page = (self.folder / "out" / "diagnosis.html").read_text()
    for needed in ("Effective weights", '<h2 id="dtd"', "model.fingerprint"):
      self.assertIn(needed, page)
    for path in (self.folder / "out").iterdir():
      self.assertRegex(path.name, f"{output_folder.FILES}|.*lock.*")

  @pytest.mark.slow
  def test_a_file_of_features(self):
    np.save(self.folder / "mine.npy", _features())
    status, _, error = self._run(f"--features={self.folder / 'mine.npy'}")
    self.assertEqual(status, 0, error)
    rows = self._rows()
    unit = _features() / np.linalg.norm(_features(), axis=1, keepdims=True)
    pulls = diagnostics.by_features({"soc": methods.Soc()}, unit)
    row = rows["mine", "soc"]
    self.assertAlmostEqual(
        row["effective_weight_by_features"], pulls.effective_weights[0],
        places=5)
    upper = (unit @ unit.T)[np.triu_indices(6, k=1)]
    self.assertAlmostEqual(row["beyond"], np.mean(upper > methods.Soc().delta))
    self.assertNotIn("norm_by_context", row)
    self.assertNotIn("weight", rows["mine", "soc_quantile"])
    self.assertLen(rows, 6)

  @pytest.mark.slow
  def test_effective_weights_and_a_margin_that_follow_the_classes(self):
    status, _, error = self._run(
        "--config.data.name=digits,shapes", "--config.method.name=c_tpt,soc",
        "--config.method.effective_weight=2",
        "--config.method.soc.delta_quantile=0.7")
    self.assertEqual(status, 0, error)
    rows = self._rows()
    self.assertLen({row["weight"] for row in rows.values()}, 4)
    for (_, method), row in rows.items():
      self.assertAlmostEqual(row["effective_weight_by_context"], 2, places=4)
      if method == "soc":
        self.assertAlmostEqual(row["beyond"], 0.3, delta=0.03)

  def test_features_alone_have_no_effective_weight(self):
    np.save(self.folder / "mine.npy", _features())
    status, _, error = self._run(
        f"--features={self.folder / 'mine.npy'}",
        "--config.method.effective_weight=2")
    self.assertEqual(status, 2)
    self.assertIn("text features alone do not tell it", re.sub(
        r"\s+", " ", error))

  @pytest.mark.slow
  def test_under_the_published_weights(self):
    status, _, error = self._run(
        "--config.data.name=imagenet_r", "--config.protocol=paper",
        "--config.method.name=c_tpt", "--config.data.classes=base")
    self.assertEqual(status, 0, error)
    row = self._rows()["imagenet_r", "c_tpt"]
    self.assertEqual((row["weight"], row["num_classes"]), (20, 100))

  @parameterized.parameters(
      (("--features=nowhere.npy",), "no file nowhere.npy"),
      (("--config.method.name=tpt",), "none of the methods tpt has a reg"),
      (("--config.method.name=mta",), "none of the methods mta tunes a prompt"),
      (("--config.method.context=fpp",), "fpp.*images"),
      (("--config.data.name=dtdd",), "did you mean dtd"))
  def test_refused(self, arguments, words):
    status, _, error = self._run(*arguments)
    self.assertEqual(status, 2)
    self.assertRegex(re.sub(r"\s+", " ", error), words)
    self.assertFalse((self.folder / "out").exists())


class FeaturesTest(parameterized.TestCase):

  @parameterized.parameters(
      (np.ones(3), r"shape \(3,\)"), (np.ones((0, 3)), "shape"),
      (np.array([[1., 0], [0, 0]]), "row 1 has norm 0"),
      (np.array([[1., np.nan]]), "row 0 has norm nan"),
      (np.array([["a", "b"]]), "no .npy of numbers"),
      (np.array([[1j, 2]]), "no .npy of numbers .its dtype is complex"),
      (np.array([[1e300, 1e300]]), "row 0 has norm inf"),
      (np.array([{}]), "no .npy of numbers"))
  def test_other_files(self, values, words):
    path = pathlib.Path(self.create_tempdir().full_path) / "x.npy"
    np.save(path, values, allow_pickle=True)
    with self.assertRaisesRegex(ValueError, words):
      diagnosis.read_features(path)


if __name__ == "__main__":
  absltest.main()
