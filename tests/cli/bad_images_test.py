"""Images that cannot be used: said before the work, or left out and listed."""

import json
import os
import pathlib

from absl.testing import absltest
from PIL import Image
import pytest

from tests.cli import command
from tests.data import files
from tests.data import miniatures

_SMALL = ("--config.views.number=2", "--config.method.selection_fraction=0.5",
          "--config.metrics.num_resamples=20", "--config.method.name=zero_shot")
_SKIP = "--config.data.on_bad_image=skip"


def _fill(folder, count=3, first=0):
  """A picture of its own for every class and number."""
  for label, name in enumerate(("cat", "dog")):
    for number in range(count):
      miniatures.picture(folder / name / f"{number}.png",
                         first + 10 * label + number)
  return folder


def _damage(folder):
  """A file that is cut off, a link without an end, and a narrow picture."""
  path = folder / "cat/1.png"
  Image.fromarray(files.pixels(64, 64)).save(path)
  path.write_bytes(path.read_bytes()[:2000])
  (folder / "dog/3.png").symlink_to("gone.png")
  Image.new("1", (2000, 1)).save(folder / "dog/4.png")
  return ["cat/1.png", "dog/3.png", "dog/4.png"]


class BadImagesTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.create_tempdir().full_path)
    self.images = _fill(self.root / "pets")
    self.output = self.root / "out"

  def _evaluate(self, *arguments):
    return command.here(
        "evaluate", f"--config.data.name={self.images}", *_SMALL,
        f"--output={self.output}", *arguments)

  def _listed(self, bad):
    """run.json, results.md and the page have every one and its reason."""
    told = json.loads((self.output / "run.json").read_text("utf-8"))
    self.assertEqual(list(told["left_out.pets"]), bad)
    for name in ("results.md", "report.html"):
      text = (self.output / name).read_text("utf-8")
      self.assertIn("pets: 3 images left out, which cannot be used:", text)
      for image_id in bad:
        self.assertIn(image_id, text)
      self.assertIn("image file is truncated", text)
    row = json.loads((self.output / "results.jsonl").read_text().split("\n")[0])
    self.assertEqual((row["num_images"], row["num_classes"]), (5, 2))

  def test_headers_are_looked_at_before_the_run(self):
    _, narrow = _damage(self.images)[1:]
    status, _, error = self._evaluate()
    self.assertEqual(status, 2)
    self.assertRegex(error, r"(?s)2 of 8 files of 'pets' cannot .*"
                     r"on_bad_image=skip\):.*dog/3.png: it is a link to gone")
    self.assertIn(f"{narrow}: cannot make views of an image of 1 by 2000",
                  error)
    self.assertFalse(self.output.exists())

  def test_damage_behind_the_header_stops_the_run_and_names_the_file(self):
    _damage(self.images)
    for name in ("3", "4"):
      (self.images / f"dog/{name}.png").unlink()
    status, _, error = self._evaluate()
    self.assertEqual(status, 2)
    self.assertRegex(error, "cannot use image 'cat/1.png'.*truncated")

  @pytest.mark.slow
  def test_skipped_images_are_listed_everywhere(self):
    bad = _damage(self.images)
    for again in range(2):  # the second time, what is there is used
      status, printed, error = self._evaluate(_SKIP)
      self.assertEqual(status, 0, error)
      self.assertIn("pets: 3 images left out", printed)
      self._listed(bad)
    os.remove(self.output / "report.html")
    for name, page in (("conformal", "sets"), ("failure", "failure")):
      status, printed, error = command.here(name, self.output)
      self.assertEqual(status, 0, error)
      for file in (f"{page}.md", f"{page}.html"):
        self.assertIn("pets: 3 images left out",
                      (self.output / file).read_text("utf-8"))
    status, printed, error = command.here("report", self.output)
    self.assertEqual(status, 0, error)
    self._listed(bad)
    # A file that has been mended is an image again: other images than before.
    (self.images / "dog/4.png").unlink()
    miniatures.picture(self.images / "dog/4.png", 99)
    status, _, error = self._evaluate(_SKIP)
    self.assertEqual(status, 2)
    self.assertRegex(error, "data.num_images: stored 5, asked 6")

  @pytest.mark.slow
  def test_a_report_of_several_runs_keeps_what_one_says(self):
    _damage(self.images)
    for images, output in ((self.images, "out"),
                           (_fill(self.root / "birds", first=50), "more")):
      status, _, error = command.here(
          "evaluate", f"--config.data.name={images}", *_SMALL, _SKIP,
          f"--output={self.root}/{output}")
      self.assertEqual(status, 0, error)
    status, printed, error = command.here(
        "report", self.output, self.root / "more",
        f"--output={self.root}/both")
    self.assertEqual(status, 0, error)
    self.assertEqual(printed.count("pets: 3 images left out"), 1)

  @pytest.mark.slow
  def test_nothing_is_said_of_sound_images(self):
    status, printed, error = self._evaluate(_SKIP)
    self.assertEqual(status, 0, error)
    self.assertNotIn("left out", printed)
    told = json.loads((self.output / "run.json").read_text("utf-8"))
    self.assertFalse([key for key in told if key.startswith("left_out")])

  @pytest.mark.slow
  def test_a_store_knows_what_was_left_out(self):
    bad = _damage(self.images)
    store = f"{self.root}/store"
    status, _, error = command.here(
        "features", f"--config.data.name={self.images}", _SMALL[0], _SKIP,
        f"--store={store}")
    self.assertEqual(status, 0, error)
    status, _, error = self._evaluate(f"--config.data.store={store}")
    self.assertEqual(status, 0, error)
    self._listed(bad)

  @pytest.mark.slow
  def test_a_list_and_a_sweep(self):
    bad = _damage(self.images)
    names = sorted(path.relative_to(self.root).as_posix()
                   for path in self.images.glob("*/*.png")
                   if path.name != "3.png")
    (self.root / "pets.CSV").write_text("path,label\n" + "".join(
        f"{name},{name.split('/')[1]}\n" for name in names), "utf-8")
    status, printed, error = command.here(
        "sweep", f"--config.data.name={self.root}/pets.CSV", _SKIP, *_SMALL,
        "--sweep=views.seed=0,1", f"--output={self.output}")
    self.assertEqual(status, 0, error)
    told = json.loads((self.output / "run.json").read_text("utf-8"))
    self.assertEqual(list(told["left_out.pets"]),
                     [f"pets/{bad[0]}", f"pets/{bad[2]}"])
    self.assertIn("pets: 2 images left out", printed)

  @pytest.mark.slow
  def test_shots_of_files_that_are_called_like_the_test_images(self):
    train = _fill(self.root / "train", first=100)
    bad = _damage(train)
    tune = ("tune", f"--config.data.name={self.images}",
            "--config.tune.name=coop", "--config.tune.num_shots=1",
            "--config.tune.num_seeds=1", "--config.tune.num_epochs=1",
            "--config.tune.classes=all", "--config.metrics.num_resamples=20",
            f"--output={self.output}", _SKIP)
    status, printed, error = command.here(
        *tune, f"--config.tune.train={train}")
    self.assertEqual(status, 0, error)
    told = json.loads((self.output / "run.json").read_text("utf-8"))
    self.assertEqual(list(told["left_out.pets/train"]), bad)
    self.assertIn("pets/train: 3 images left out", printed)
    # One image that is the same is one too many.
    (train / "dog/2.png").write_bytes(
        (self.images / "dog/2.png").read_bytes())
    status, _, error = command.here(
        *tune, f"--config.tune.train={train}", "--overwrite")
    self.assertEqual(status, 2)
    self.assertIn("images of train are among those to be predicted", error)


if __name__ == "__main__":
  absltest.main()
