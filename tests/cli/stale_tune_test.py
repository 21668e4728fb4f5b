"""Tuned parameters, and what they predict, are of these images and settings.

The sibling of `stale_test`: every way for what `jaxcal tune` saved to become
that of something else ends in the right new number or in a refusal by name.
"""

import contextlib
import json
import pathlib
import shutil
from unittest import mock

from absl.testing import absltest
import numpy as np
import pytest
from safetensors import numpy as safetensors

from jaxcal import predictions
from jaxcal.storage import pytree
from jaxcal.testbed import shipped
from tests.cli import command
from tests.data import miniatures

_SMALL = ("--config.tune.classes=all", "--config.tune.num_shots=2",
          "--config.tune.num_seeds=2", "--config.tune.num_epochs=2",
          "--config.metrics.num_resamples=20")
_CLASSES = ("cat", "dog")


@pytest.mark.slow
class StaleTuneTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.create_tempdir().full_path)
    self.output = self.root / "out"
    for split, seed in (("train", 0), ("test", 100)):
      for label, name in enumerate(_CLASSES):
        for number in range(2):
          miniatures.picture(
              self.root / split / name / f"{split}{number}.png",
              seed + 10 * label + number)
    self._tune()
    self.before = self._parameters()

  def _run(self, *arguments, methods="taskres"):
    return command.here(
        "tune", f"--config.data.name={self.root / 'test'}",
        f"--config.tune.train={self.root / 'train'}",
        f"--config.tune.name={methods}", f"--output={self.output}", *_SMALL,
        *arguments)

  def _tune(self, *arguments, methods="taskres"):
    status, _, error = self._run(*arguments, methods=methods)
    self.assertEqual(status, 0, error)
    return [json.loads(line) for line in
            (self.output / "results.jsonl").read_text().splitlines()]

  def _refused(self, message, *arguments, **changes):
    status, printed, error = self._run(*arguments, **changes)
    self.assertEqual((status, printed), (2, ""), error)
    self.assertRegex(error, message)
    self.assertIn("overwrite", error)
    # The way out is one.
    return self._tune(*arguments, "--overwrite", **changes)

  def _files(self, pattern):
    return {path.relative_to(self.output): path.stat().st_mtime_ns
            for path in self.output.glob(pattern)}

  def _parameters(self, seed=1):
    return safetensors.load_file(
        self.output / f"tuned/test/taskres/seed-{seed}.safetensors")["residual"]

  def _assert_other_parameters(self):
    self.assertGreater(np.abs(self._parameters() - self.before).max(), 0)

  def test_overwriting_leaves_nothing(self):
    status, _, error = self._run("--overwrite")
    self.assertEqual(status, 0, error)
    self.assertNotIn("kept in", error)

  def test_nothing_changed(self):
    files = self._files("tuned/**/*") | self._files("predictions/**/*")
    self._tune("--config.metrics.num_bins=15", "--config.tune.seeds_at_once=1",
               "--config.num_threads=1")
    self.assertEqual(self._files("tuned/**/*") | self._files(
        "predictions/**/*"), files)

  def test_it_grows_by_methods_and_seeds(self):
    files = self._files("tuned/**/seed-*") | self._files("predictions/**/*.npz")
    rows = self._tune("--config.tune.num_seeds=3",
                      methods="tip_adapter,taskres")
    self.assertEqual([row["method"] for row in rows],
                     ["zero_shot", "tip_adapter", "taskres"])
    self.assertEqual([row["seeds"] for row in rows], [1, 3, 3])
    now = self._files("tuned/**/seed-*") | self._files("predictions/**/*.npz")
    self.assertEqual({name: now[name] for name in files}, files)
    self.assertLen(now, 2 * 3 * 3 + 1)  # two methods, three seeds; zero-shot
    # As all at once.
    self.output = self.root / "at_once"
    self._tune("--config.tune.num_seeds=3")
    grown = safetensors.load_file(
        self.root / "out/tuned/test/taskres/seed-3.safetensors")["residual"]
    np.testing.assert_allclose(grown, self._parameters(3), rtol=1e-5, atol=1e-7)

  def test_training_images_replaced(self):
    miniatures.picture(self.root / "train/cat/train0.png", 55)
    self._refused("tuned on something else.*\n  data.contents: stored")
    self._assert_other_parameters()

  def test_test_images_replaced(self):
    miniatures.picture(self.root / "test/cat/test0.png", 55)
    self._refused("predictions/test/zero_shot/all-1 holds .*\n  data.contents")
    np.testing.assert_array_equal(self._parameters(), self.before)

  def test_an_image_moved_to_another_class(self):
    (self.root / "test/cat/test0.png").rename(self.root / "test/dog/test9.png")
    self._refused("(?s)data.ids: stored .*data.labels: stored")

  def test_another_class_name(self):
    for split in ("train", "test"):
      (self.root / split / "cat").rename(self.root / split / "lion")
    self._refused("data.class_names: stored '.*', asked")
    found = predictions.load(self.output / "predictions/test/taskres/all-1")
    self.assertEqual(found.class_names, ("dog", "lion"))

  def test_other_settings(self):
    for flag, message in (
        ("--config.tune.num_epochs=3", "recipe.num_epochs: stored 2, asked 3"),
        ("--config.tune.learning_rate=0.1", "recipe.learning_rate: stored"),
        ("--config.tune.template=a sketch of a {}.", "prompt.template: stored"),
        ("--config.tune.num_views=2", "views.num_views: stored 'nothing'")):
      self.output = self.root / flag.replace("/", " ")
      self._tune()
      self._refused(message, flag)
      self._assert_other_parameters()

  def test_run_json_lost_or_cut(self):
    for content in (None, b"", b'{"config.views'):
      path = self.output / "run.json"
      path.unlink()
      if content is not None:
        path.write_bytes(content)
      self._tune()
    self._refused("recipe.num_epochs: stored 2, asked 3",
                  "--config.tune.num_epochs=3")

  def test_a_state_of_another_training(self):
    tuned = self.output / "tuned/test/taskres"
    save = pytree.save

    def save_and_stop(*given, own):
      save(*given, own=own)
      raise command.Stopped

    with (mock.patch.object(pytree, "save", save_and_stop),
          contextlib.suppress(command.Stopped)):
      self._run("--config.tune.num_epochs=30", "--overwrite")
    self.assertNotEmpty(list(tuned.glob("state-1-2.npz")))
    status, _, error = self._run("--config.tune.num_epochs=20")
    self.assertEqual(status, 2)
    self.assertRegex(
        error, "state-1-2.npz is of another run:\n.*recipe.num_epochs: stored "
        "30, asked 20")

  def test_foreign_parameters(self):
    self.output = self.root / "other"
    self._tune("--config.tune.num_epochs=5")
    for ending in ("safetensors", "json"):
      shutil.copy(self.output / f"tuned/test/taskres/seed-1.{ending}",
                  self.root / f"out/tuned/test/taskres/seed-1.{ending}")
    self.output = self.root / "out"
    self._refused("recipe.num_epochs: stored 5, asked 2")
    np.testing.assert_array_equal(self._parameters(), self.before)

  def test_parameters_lost(self):
    for path in (self.output / "tuned/test/taskres").glob("seed-1.*"):
      path.unlink()
    self._tune()
    np.testing.assert_allclose(self._parameters(), self.before, atol=1e-7)

  def test_another_checkpoint_of_the_same_name(self):
    model = self.root / "model"
    shutil.copytree(shipped.folder(), model)
    given = f"--config.model.name={model}"
    self._tune(given)  # the same weights, wherever they lie
    weights = model / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1000] ^= 1  # the last bit of a number
    weights.write_bytes(content)
    self._refused("model: stored '.*', asked", given)


if __name__ == "__main__":
  absltest.main()
