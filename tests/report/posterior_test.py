"""Reports of a posterior and of choices, from what lies in folders alone."""

import json
import pathlib

from absl.testing import absltest
import numpy as np

from jaxcal import predictions
from jaxcal.posterior import curvature
from jaxcal.posterior import files
from jaxcal.posterior import finetuning
from jaxcal.posterior import released
from jaxcal.posterior import select
from jaxcal.report import posterior


def _factors(seed, num_pairs=7):
  roots = np.random.default_rng(seed).standard_normal((2, 6, 6))
  a, b = (np.float32(root @ root.T) for root in roots)
  return curvature.Factors(a, b[:4, :4], num_pairs)


class FitTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)

  def test_spectra_and_what_was_left_out(self):
    found = files.fitted({"image": _factors(0), "text": _factors(1)}, {
        "weight_norm2": {"image": 3.0, "text": 4.0},
        "left_out": {"no caption": 2, "no image": 0}, "num_unusable": 5})
    evidence = files.maximise_evidence(found, 10)
    text = posterior.write_fit(self.folder, found, evidence)
    self.assertRegex(text, r"\| text +\| 6 +\| 4 +\| 7 ")
    self.assertIn(
        "\n\npseudo-data count 10; left out: 2 no caption, 5 unusable image\n\n"
        f"Written to {self.folder}: ", text)
    self.assertStartsWith((self.folder / "spectra.svg").read_text(), "<svg")

  def test_priors_as_released_and_now(self):
    found = released.Released(_factors(0), _factors(1), {
        "lambda_img": 2.0, "n_img": 10.0, "lambda_txt": 3.0, "n_txt": 10.0}, {})
    fitted = released.fitted(
        found, name="some", weight_norm2={"image": 3.0, "text": 4.0})
    text = posterior.write_priors(
        self.folder, found, fitted, files.maximise_evidence(fitted, 4))
    self.assertRegex(text, r"(?m)^\| text +\| 3 \(count 10\) .* \(count 4\) ")
    self.assertEqual((self.folder / "priors.md").read_text(), f"{text}\n")


class SelectionTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)
    # Of four images, as many are right as there are labels.
    self.paths = {select.BEFORE: self._save(select.BEFORE, 1)}
    for strategy in ("random", "bald"):
      for seed in (0, 1):
        for budget in (2, 3):
          cell = finetuning.Cell(strategy, seed, budget)
          self.paths[select.name_of(cell)] = self._save(
              select.name_of(cell), budget + seed, selected=[
                  f"{strategy}{seed}{i}" for i in range(budget)])

  def _save(self, name, num_right, **settings):
    labels = np.array([0, 1, 0, 1])
    given = np.where(np.arange(4) < num_right, labels, 1 - labels)
    path = self.folder / "predictions" / name
    predictions.save(predictions.Predictions(
        np.float32(2 * np.eye(2)[given]), labels, tuple("abcd"), ("x", "y"), {},
        settings), path)
    return path

  def test_rows_ids_curves_and_table(self):
    text = posterior.write_selection(
        self.folder, {"pets": self.paths}, strategies=["random", "bald"],
        budgets=[2, 3], seeds=[0, 1])
    rows = [json.loads(line) for line in
            (self.folder / "results.jsonl").read_text().splitlines()]
    self.assertEqual(
        [(row["strategy"], row["budget"], row["seeds"], row["accuracy"],
          row["accuracy_low"], row["accuracy_high"]) for row in rows],
        [("before", 0, 1, 0.25, 0.25, 0.25),
         *((strategy, budget, 2, (2 * budget + 1) / 8, budget / 4,
            (budget + 1) / 4) for strategy in ("random", "bald")
           for budget in (2, 3))])
    chosen = json.loads((self.folder / "selected-pets.json").read_text())
    self.assertEqual(chosen, {
        strategy: [[f"{strategy}{seed}{i}" for i in range(3)]
                   for seed in range(2)] for strategy in ("random", "bald")})
    figure = (self.folder / "learning-pets.svg").read_text()
    self.assertStartsWith(figure, "<svg")
    table = (self.folder / "results.md").read_text()
    self.assertStartsWith(text, table)
    self.assertRegex(table, r"\| pets +\| bald +\| 3 +\| 2 +\| 87.5 \[75.0, 10")


if __name__ == "__main__":
  absltest.main()
