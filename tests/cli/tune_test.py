"""`jaxcal tune`: from a few images to prompts and a table, stopped or not."""

import json
import pathlib
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pytest
from safetensors import numpy as safetensors

from jaxcal import predictions as predictions_lib
from jaxcal.tuning import protocol
from tests.cli import command

_SMALL = ("--config=configs/dor_base_to_new.py", "--config.data.name=shapes",
          "--config.data.limit=40", "--config.tune.num_shots=2",
          "--config.tune.num_seeds=2", "--config.tune.num_epochs=12",
          "--config.tune.batch_size=9", "--config.tune.num_context=4")


@pytest.mark.slow
class TuneTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    scratch = tempfile.TemporaryDirectory()
    cls.addClassCleanup(scratch.cleanup)
    cls.folder = pathlib.Path(scratch.name)
    cls.status, cls.printed, cls.error = command.here(
        "tune", *_SMALL, "--config.tune.name=kgcoop,coop+dor",
        f"--output={cls.folder}")

  def test_table_has_base_and_new_of_every_method(self):
    self.assertEqual(self.status, 0, self.error)
    self.assertIn("| kgcoop ", self.printed)
    self.assertIn("of 9", self.printed)  # new names among the outliers
    rows = [json.loads(line) for line in
            (self.folder / "results.jsonl").read_text().splitlines()]
    self.assertEqual([row["method"] for row in rows],
                     ["zero_shot", "kgcoop", "coop+dor"])
    for row in rows:
      self.assertBetween(row["accuracy_base"], 0.3, 1)
      self.assertAlmostEqual(
          row["ece_arithmetic_mean"],
          (row["ece_base"] + row["ece_new"]) / 2, places=9)
    self.assertIsNone(rows[1]["shared_names"])
    self.assertGreater(rows[2]["shared_names"], 0)

  def test_answers_are_of_the_halves(self):
    folder = self.folder / "predictions" / "shapes" / "kgcoop"
    base, new = (predictions_lib.load(folder / f"{half}-1")
                 for half in ("base", "new"))
    self.assertLen(base.class_names, 9)
    self.assertLen(new.class_names, 9)
    self.assertEmpty(set(base.class_names) & set(new.class_names))
    self.assertEmpty(set(base.ids) & set(new.ids))
    self.assertLen(base.ids + new.ids, 40)
    row = next(row for row in map(json.loads, (
        self.folder / "results.jsonl").read_text().splitlines())
               if row["method"] == "kgcoop")
    accuracy = lambda half: np.mean([
        np.mean(one.logits.argmax(-1) == one.labels) for one in (
            predictions_lib.load(folder / f"{half}-{seed}")
            for seed in (1, 2))])
    self.assertAlmostEqual(row["accuracy_base"], accuracy("base"), places=6)
    self.assertAlmostEqual(row["accuracy_new"], accuracy("new"), places=6)

  def test_parameters_lie_beside_what_made_them(self):
    folder = self.folder / "tuned" / "shapes" / "kgcoop"
    one, two = (safetensors.load_file(folder / f"seed-{seed}.safetensors")
                for seed in (1, 2))
    self.assertEqual(one["context"].shape, two["context"].shape)
    self.assertGreater(np.abs(one["context"] - two["context"]).max(), 0)
    about = json.loads((folder / "seed-2.json").read_text())
    self.assertEqual(about["seed"], 2)
    self.assertEqual(about["recipe.num_epochs"], 12)
    self.assertLen(about["losses"], 12)
    self.assertLess(about["losses"][-1], about["losses"][0])

  def test_stopped_and_resumed_is_the_undisturbed_training(self):
    other = self.create_tempdir().full_path
    given = ("tune", *_SMALL, "--config.tune.name=kgcoop,coop+dor",
             f"--output={other}")
    stops = 0
    for number in (4, 6, 9, 14):
      with command.stopped_at_write(number) as write:
        command.here(*given)
      stops += write[1]
    self.assertGreater(stops, 2)
    self.assertEqual(command.here(*given)[0], 0)
    for path in sorted(self.folder.rglob("*")):
      if path.suffix in (".safetensors", ".npz") and "features" not in (
          path.parts):
        again = pathlib.Path(other) / path.relative_to(self.folder)
        self.assertEqual(path.read_bytes(), again.read_bytes(), str(path))
    self.assertEqual((self.folder / "results.jsonl").read_text(),
                     (pathlib.Path(other) / "results.jsonl").read_text())

  @parameterized.parameters(
      (("--config.tune.name=coup",), "unknown method 'coup'; choose from"),
      (("--config.tune.num_shots=999",), "fewer than 999 images"),
      (("--config.tune.outliers=wordnet:/nowhere",),
       "no WordNet nouns in /nowhere.*apt-get install wordnet-base"),
      (("--config.tune.outliers=/nowhere.txt",), "no file of words"),
      (("--config.tune.preset=mine",), "'upstream' or 'dor'"),
      (("--config.data.split=train",), "no split to train on"))
  def test_errors_come_before_the_work(self, arguments, message):
    status, _, error = command.here(
        "tune", *_SMALL, "--config.tune.name=coop+dor",
        f"--output={self.create_tempdir().full_path}", *arguments)
    self.assertEqual(status, 2)
    self.assertRegex(error, message)

  def test_a_vocabulary_of_class_names_alone_is_refused(self):
    words = self.create_tempfile(content="circle\nsquare\n")
    base = predictions_lib.load(
        self.folder / "predictions" / "shapes" / "kgcoop" / "base-1")
    words.write_text("\n".join(base.class_names[:3]))
    status, _, error = command.here(
        "tune", *_SMALL, "--config.tune.name=coop+dor",
        f"--output={self.create_tempdir().full_path}",
        f"--config.tune.outliers={words.full_path}")
    self.assertEqual(status, 2)
    self.assertRegex(error, "none is left without the 9 names")

  def test_shots_are_those_of_the_released_sampler(self):
    from jaxcal.testbed import sets
    train = sets.load("shapes", split="train")
    shots = protocol.draw_shots(
        train.labels, None, num_shots=2, num_classes=18, seed=1).train
    kept, _ = protocol.keep_positions(
        train.labels[shots], protocol.halves(train.labels)[0])
    parts = sorted((self.folder / "features" / "shapes" / "train").glob(
        "about.json"))
    ids = json.loads(parts[0].read_text())["ids"]
    self.assertLessEqual({train.ids[i] for i in shots[kept]}, set(ids))


if __name__ == "__main__":
  absltest.main()
