"""`jaxcal tune`: from a few images to prompts and a table, stopped or not."""

import json
import pathlib
import random
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from PIL import Image
import pytest
from safetensors import numpy as safetensors

from jaxcal import predictions as predictions_lib
from jaxcal import stages
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
        "tune", *_SMALL, "--config.tune.name=kgcoop,maple",
        f"--output={cls.folder}")

  def test_table_has_base_and_new_of_every_method(self):
    self.assertEqual(self.status, 0, self.error)
    self.assertIn("| kgcoop ", self.printed)
    self.assertIn("of 9", self.printed)  # new names among the outliers
    rows = [json.loads(line) for line in
            (self.folder / "results.jsonl").read_text().splitlines()]
    self.assertEqual(
        [stages.of(row).label for row in rows],
        ["zero_shot", "kgcoop", "kgcoop+dor", "maple", "maple+dor"])
    self.assertEqual(rows[2]["additions"], ["dor"])
    for row in rows:
      self.assertBetween(row["accuracy_base"], 0.3, 1)
      self.assertAlmostEqual(
          row["ece_arithmetic_mean"],
          (row["ece_base"] + row["ece_new"]) / 2, places=9)
      self.assertBetween(row["ece_new"], row["ece_new_low"],
                         row["ece_new_high"])
      # Zero-shot has no seeds that others could differ from.
      self.assertEqual("ece_new_total_low" in row, row["seeds"] == 2)
    self.assertRegex(
        self.printed, r"\| kgcoop [^\n]* \+- \d+\.\d \(\d+\.\d, \d+\.\d\) ")
    self.assertIsNone(rows[1]["shared_names"])
    self.assertGreater(rows[2]["shared_names"], 0)
    for name in ("diagram-shapes.svg", "losses-shapes.svg"):
      self.assertStartsWith((self.folder / name).read_text(), "<svg")

  def test_differences_are_to_zero_shot_and_to_the_plain_method(self):
    rows = [json.loads(line) for line in
            (self.folder / "differences.jsonl").read_text().splitlines()]
    result = {stages.of(row): row for row in map(json.loads, (
        self.folder / "results.jsonl").read_text().splitlines())}
    pairs = [(stages.of(row).label, stages.reference_of(row).label)
             for row in rows[::2]]  # base and new
    self.assertEqual(pairs, [
        ("kgcoop", "zero_shot"), ("kgcoop+dor", "zero_shot"),
        ("maple", "zero_shot"), ("maple+dor", "zero_shot"),
        ("kgcoop+dor", "kgcoop"), ("maple+dor", "maple")])
    self.assertIn("p: two-sided, of the bootstrap, by Holm's method over the "
                  "differences of an image set.", self.printed)
    for row in rows:
      self.assertBetween(row["ece_difference_p"], 0, 1)
      self.assertLessEqual(row["ece_difference_total_low"],
                           row["ece_difference_low"])
      half, reference = row["classes"], result[stages.reference_of(row)]
      self.assertAlmostEqual(
          row["ece_difference"], result[stages.of(row)][f"ece_{half}"] -
          reference[f"ece_{half}"], places=9)

  def test_predictions_are_of_the_halves(self):
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
               if stages.of(row).label == "kgcoop")
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
    given = ("tune", *_SMALL, "--config.tune.name=kgcoop,maple",
             f"--output={other}")
    stops = 0
    # Amid features, saved epochs, tuned parameters and predictions.
    for number in (4, 7, 5, 9, 6):
      with command.stopped_at_write(number) as write:
        command.here(*given)
      stops += write[1]
    self.assertEqual(stops, 5)
    self.assertEqual(command.here(*given)[0], 0)
    for path in sorted(self.folder.rglob("*")):
      if path.suffix in (".safetensors", ".npz") and "features" not in (
          path.parts):
        again = pathlib.Path(other) / path.relative_to(self.folder)
        self.assertEqual(path.read_bytes(), again.read_bytes(), str(path))
    self.assertEqual((self.folder / "results.jsonl").read_text(),
                     (pathlib.Path(other) / "results.jsonl").read_text())

  @parameterized.parameters(
      (("--config.tune.name=coup",), "method 'coup'; did you mean coop"),
      (("--config.tune.num_shots=999",), "fewer than 999 images"),
      (("--config.tune.outliers=wordnet:/nowhere",),
       "no WordNet nouns in /nowhere.*apt-get install wordnet-base"),
      (("--config.tune.outliers=/nowhere.txt",), "no file of words"),
      (("--config.tune.preset=mine",), "'upstream' or 'dor'"),
      (("--config.data.split=train",), "no split to train on"),
      (("--config.data.classes=new",), "config.tune.classes"),
      (("--config.tune.name=coop,coop",), "a method twice"),
      (("--config.tune.name=taskres",), "predicts no new ones"),
      (("--config.tune.name=clip_adapter",),
       "a set of other things with --config.tune.outlier_images=.*dor=without"),
      (("--config.tune.dor=maybe",), "'without' and 'with'"),
      (("--config.tune.logit_range=free,free",), "one or more of 'free', "),
      (("--config.tune.name=taskres", "--config.tune.dor=with",
        "--config.tune.classes=all"), "nothing that could be regularised"),
      (("--config.tune.templates=/nowhere.txt",), "/nowhere.txt"),
      (("--config.tune.name=coop,clip_adapter",
        "--config.tune.outlier_images=nowhere"), "unknown image set 'nowhere'"),
      (("--config.tune.name=coop,maple", "--config.memory_gb=1e-6"),
       "memory_gb is 1e-06; raise it, or take fewer seeds, shots or views"))
  def test_errors_come_before_the_work(self, arguments, message):
    folder = pathlib.Path(self.create_tempdir().full_path)
    status, _, error = command.here(
        "tune", *_SMALL, "--config.tune.name=kgcoop",
        f"--output={folder}", *arguments)
    self.assertEqual(status, 2)
    self.assertRegex(error, message)
    self.assertEmpty(list(folder.iterdir()))

  def test_a_vocabulary_of_class_names_alone_is_refused(self):
    words = self.create_tempfile(content="circle\nsquare\n")
    base = predictions_lib.load(
        self.folder / "predictions" / "shapes" / "kgcoop" / "base-1")
    words.write_text("\n".join(base.class_names[:3]))
    status, _, error = command.here(
        "tune", *_SMALL, "--config.tune.name=coop",
        f"--output={self.create_tempdir().full_path}",
        f"--config.tune.outliers={words.full_path}")
    self.assertEqual(status, 2)
    self.assertRegex(error, "none is left without the 9 names")

  def test_shots_are_those_of_the_released_sampler(self):
    from jaxcal.testbed import sets
    train = sets.load("shapes", split="train")
    drawn = set()
    for seed in (1, 2):
      generator = random.Random(seed)
      of_class = {}
      for position, label in enumerate(train.labels.tolist()):
        of_class.setdefault(label, []).append(position)
      for label, positions in of_class.items():
        chosen = generator.sample(positions, 2)
        if label < 9:
          drawn.update(train.ids[i] for i in chosen)
    about, = (json.loads(path.read_text()) for path in (
        self.folder / "features" / "shapes").glob("*/about.json")
              if path.parent.name not in ("base", "new"))
    self.assertEqual(set(about["ids"]), drawn)


@pytest.mark.slow
class AllClassesTest(absltest.TestCase):
  """Methods whose parameters belong to classes, augmented views, all else."""

  def test_every_method_of_features(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    names = ("coop_class_specific", "taskres", "tip_adapter", "tip_adapter_f",
             "clip_adapter")
    given = ("tune", *_SMALL, "--config.tune.classes=all",
             f"--config.tune.name={','.join(names)}", "--config.tune.num_epochs"
             "=2", "--config.tune.num_views=3", f"--output={folder}",
             "--config.tune.outlier_images=digits",
             "--config.tune.seeds_at_once=1")
    status, printed, error = command.here(*given)
    self.assertEqual(status, 0, error)
    rows = [json.loads(line) for line in
            (folder / "results.jsonl").read_text().splitlines()]
    # Without outliers where there is nothing that could be regularised.
    self.assertEqual([stages.of(row).label for row in rows],
                     ["zero_shot", *names, "clip_adapter+dor"])
    for row in rows:
      self.assertIn(f"| {stages.of(row).label} ", printed)
      self.assertGreater(row["accuracy_all"], 0.3)
    one = safetensors.load_file(
        folder / "tuned" / "shapes" / "tip_adapter" / "seed-1.safetensors")
    self.assertLen(one["keys"], 36)  # a key for two images of 18 classes
    again = command.here(*given)
    self.assertEqual(again[:2], (0, printed))


class OwnImagesTest(absltest.TestCase):

  @pytest.mark.slow
  def test_shots_from_another_folder(self):
    root = pathlib.Path(self.create_tempdir().full_path)
    rng = np.random.default_rng(0)
    for split, count in (("train", 3), ("test", 2)):
      for name, colour in (("green", 1), ("red", 0)):
        folder = root / split / name
        folder.mkdir(parents=True)
        for number in range(count):
          pixels = rng.integers(0, 60, (60, 50, 3)).astype(np.uint8)
          pixels[..., colour] += 190
          Image.fromarray(pixels).save(folder / f"{split}{number}.png")
    given = ("tune", "--config=configs/dor_base_to_new.py",
             f"--config.data.name={root / 'test'}",
             f"--config.tune.train={root / 'train'}",
             "--config.tune.classes=all", "--config.tune.num_shots=3",
             "--config.tune.name=taskres", "--config.tune.num_seeds=1",
             "--config.tune.num_epochs=3", "--config.data.limit=0",
             "--config.metrics.num_resamples=20")
    status, printed, error = command.here(
        *given, f"--output={root / 'out'}")
    self.assertEqual(status, 0, error)
    self.assertIn("| taskres ", printed)
    (root / "train" / "blue").mkdir()
    Image.new("RGB", (50, 60)).save(root / "train" / "blue" / "1.png")
    status, _, error = command.here(*given, f"--output={root / 'other'}")
    self.assertEqual(status, 2)
    self.assertIn("one has 3 and the other 2", error)


if __name__ == "__main__":
  absltest.main()
