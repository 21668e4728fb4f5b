"""What a run has written to its folder goes on request; all else stays."""

import pathlib

from absl.testing import absltest
from absl.testing import parameterized

from jaxcal.storage import atomic
from jaxcal.storage import lock
from jaxcal.storage import output_folder
from jaxcal.storage import process

_OWN = (
    "digests/pets base.digests.npz", "claims/12.claim",
    "run.json", "results.jsonl", "results.md", "differences.jsonl",
    "means.jsonl", "means.csv", "means.tex", "seeds.jsonl",
    "orders.jsonl", "orders.csv", "orders.tex", "stream.jsonl", "stream.csv",
    "stream.tex",
    "report.html", "diagram-my set.svg", "sets.json", "sets.md", "sets.html",
    "failure.html", "failure.json", "failure.jsonl", "failure.md",
    "sets-my set.svg", "losses-shapes.svg",
    "learning-digits.svg", "selected-digits.json", "weight-digits.svg",
    "views.number-digits.svg", "predictions/digits/soc.npz",
    "predictions/digits/soc.json", "predictions/digits/validation/soc.json",
    "predictions/digits/validation/soc.npz",
    "predictions/digits/parts-0a1b/about.json",
    "predictions/digits/parts-0a1b/00000008.npz",
    "predictions/digits/parts-0a1b/streams.npz", "predictions/digits/fpp.npz",
    "predictions/digits/parts-0a1b/order3/00000008.npz",
    "features/digits.views/manifest.json", "features/digits.views/index.json",
    "features/digits.views/left_out.json",
    "features/digits.views/view_features/zarr.json",
    "features/digits.views/view_features/c.0.0.0",
    "features/digits.views/pooled/c.12.0",
    "features/digits.views/finished/00000000.json",
    "features/train/about.json", "features/train/00000000.npz",
    "tuned/shapes/coop/seed-1.safetensors", "tuned/shapes/coop/seed-1.json",
    "tuned/shapes/coop/state-1.npz")
_FOREIGN = (
    "notes.txt", "run.json.bak", "figure.svg", "my-figure.svg", "a/b/run.json",
    "predictions/digits/notes.json", "predictions/digits/lists.npz",
    "predictions/digits/00000008.npz.damaged", "tuned/model.safetensors",
    "recalibrated-temperature-0a1b/run.json", ".hidden")


def _files(folder):
  return sorted(path.relative_to(folder).as_posix()
                for path in folder.rglob("*") if path.is_file())


class ClearTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)

  def _make(self, names):
    for name in names:
      (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
      (self.folder / name).touch()

  def test_nothing_stays_of_a_run(self):
    half = atomic.leftover_name(process.current())
    self._make((*_OWN, half, f"predictions/digits/{half}"))
    self.assertEmpty(output_folder.remove_written(self.folder))
    self.assertEmpty(list(self.folder.iterdir()))
    self.assertEmpty(output_folder.remove_written(self.folder / "nowhere"))

  def test_all_else_stays(self):
    self._make((*_OWN, *_FOREIGN, lock.NAME))
    kept = output_folder.remove_written(self.folder)
    self.assertCountEqual(kept, [
        name for name in _FOREIGN if name.count("/") != 2 or "pred" in name
        if not name.startswith(("a/", "recalibrated"))] + [
            "a", "recalibrated-temperature-0a1b"])
    self.assertEqual(_files(self.folder), sorted((*_FOREIGN, lock.NAME)))

  def test_links_are_not_followed(self):
    elsewhere = pathlib.Path(self.create_tempdir().full_path)
    (elsewhere / "soc.npz").touch()
    (elsewhere / "soc.json").touch()
    (self.folder / "predictions").mkdir()
    (self.folder / "predictions" / "digits").symlink_to(elsewhere)
    (self.folder / "answers").symlink_to(elsewhere)
    self.assertEqual(
        output_folder.remove_written(self.folder), ["predictions/digits"])
    self.assertLen(list(elsewhere.iterdir()), 2)
    self.assertFalse((self.folder / "answers").exists())

  @parameterized.parameters("", "{", "[1]")
  def test_a_damaged_run_json_is_named(self, text):
    path = self.folder / "run.json"
    path.write_text(text)
    with self.assertRaisesRegex(
        ValueError, "run.json is damaged .*give another --output"):
      output_folder.read_settings(path)

  def test_taken_by_one_run_at_a_time(self):
    folder = self.folder / "a" / "run"
    with output_folder.taken(folder) as before:
      self.assertIsNone(before)
      with self.assertRaisesRegex(lock.FolderLocked, "in use by another run"):
        with output_folder.taken(folder):
          pass
    self.assertEmpty(_files(folder))


class SettingsTest(absltest.TestCase):

  def test_what_was_written_is_read(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    output_folder.write_settings(folder, {"config.data.limit": 3, "a": [None]})
    self.assertEqual(output_folder.read_settings(folder / "run.json"),
                     {"config.data.limit": 3, "a": [None]})

  def test_names_tell_settings_apart(self):
    name = output_folder.hashed("mine", {"limit": 3})
    self.assertRegex(name, r"^mine-[0-9a-f]{8}$")
    self.assertEqual(name, output_folder.hashed("mine", {"limit": 3}))
    self.assertNotEqual(name, output_folder.hashed("mine", {"limit": 4}))


if __name__ == "__main__":
  absltest.main()
