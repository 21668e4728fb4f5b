"""Reports of a posterior and of choices, from what lies in folders alone."""

import json
import pathlib
import shutil

from absl.testing import absltest
import numpy as np
import pytest

from jaxcal import predictions
from jaxcal.posterior import curvature
from jaxcal.posterior import files
from jaxcal.posterior import finetuning
from jaxcal.posterior import released
from jaxcal.posterior import select
from jaxcal.report import posterior
from jaxcal.report import redrawn


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
    page = (self.folder / "report.html").read_text()
    self.assertEqual(page.count("<svg"), 3)
    for part in ("accuracy against the number of labels", "NLL against",
                 "from the lowest to the highest seed"):
      self.assertIn(part, page)

  @pytest.mark.slow
  def test_redrawn_from_its_folder(self):
    run = self.folder / "run"
    found = run / "predictions" / "pets"
    found.mkdir(parents=True)
    for path in (self.folder / "predictions").iterdir():
      shutil.copy(path, found / path.name)
    paths = {name: found / name for name in self.paths}
    posterior.write_selection(
        run, {"pets": paths}, strategies=["random", "bald"], budgets=[2, 3],
        seeds=[0, 1])
    (run / "run.json").write_text(json.dumps({
        "config.model.name": "testbed",
        "command": ["jaxcal", "posterior", "select"]}))
    written = redrawn.write(
        run, output=run / "again", page_by=["jaxcal", "report"])
    for name in ("results.jsonl", "results.md", "selected-pets.json",
                 "learning-pets.svg"):
      self.assertEqual((run / "again" / name).read_bytes(),
                       (run / name).read_bytes(), name)
    self.assertIn("report.html", written.text)
    page = (run / "again" / "report.html").read_text()
    self.assertIn("Which labels would help most with testbed", page)
    self.assertIn("jaxcal posterior select", page)
    (found / "bald-3-1.npz").unlink()
    with self.assertRaisesRegex(
        FileNotFoundError, "has results of pets, bald-3-1, but no longer"):
      redrawn.write(run)
    (run / "results.jsonl").unlink()
    with self.assertRaisesRegex(ValueError, "again: jaxcal posterior select"):
      redrawn.write(run)

  def test_seeds_are_those_that_were_chosen_with(self):
    run = self.folder / "run"
    for seed in (7, 9):
      for name, labels in ((select.BEFORE, 1), (f"random-2-{seed}", 2)):
        path = self._save(name, labels, selected=["a", "b"], identity={
            "strategy": "random", "budget": 2, "seed": seed})
        for file in path.parent.glob(f"{name}.*"):
          target = run / "predictions" / "pets" / file.name
          target.parent.mkdir(parents=True, exist_ok=True)
          shutil.copy(file, target)
    folder = run / "predictions" / "pets"
    posterior.write_selection(
        run, {"pets": {path.stem: path.with_suffix("")
                       for path in folder.glob("*.npz")}},
        strategies=["random"], budgets=[2], seeds=[7, 9])
    before = (run / "results.jsonl").read_bytes()
    redrawn.write(run)
    self.assertEqual((run / "results.jsonl").read_bytes(), before)


if __name__ == "__main__":
  absltest.main()
