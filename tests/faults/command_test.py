"""A few faults of each kind through the command: a line, and no traceback."""

import contextlib
import json
import shutil
import zipfile

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pytest

from jaxcal import predictions
from jaxcal import stages
from jaxcal.report import redrawn
from jaxcal.report import summary
from jaxcal.testbed import shipped
from tests.cli import command
from tests.clip import tiny
from tests.faults import fuzz
from tests.faults import images_test

_SMALL = ("--config.views.number=2", "--config.method.selection_fraction=0.5",
          "--config.method.name=zero_shot", "--config.metrics.num_resamples=20")
_DEEP = b"[" * 100_000


def _cases(*cases):
  return parameterized.named_parameters(
      (f"{name}_{number}", name, content, message)
      for number, (name, content, message) in enumerate(cases))


class CommandTest(fuzz.FaultCase):

  def setUp(self):
    super().setUp()
    for name in ("cat", "dog"):
      (self.root / "pets" / name).mkdir(parents=True)
      (self.root / f"pets/{name}/1.png").write_bytes(images_test.SOUND["PNG"])

  def _refused(self, message, *arguments):
    """Runs a command that must say what is wrong, and writes nothing."""
    with contextlib.chdir(self.root):
      found, _, error = command.here(*arguments, folder=self.root)
    self.assertEqual(found, 2, error)
    self.assertNotIn("Traceback", error)
    self.assertRegex(error, r"(?m)^jaxcal: \S")
    self.assertRegex(error, message)
    self.assertFalse((self.root / "out").exists())
    self.assertEqual((self._outer / "others").read_text(), "untouched")

  def _evaluate(self, message, name, *more):
    self._refused(message, "evaluate", f"--config.data.name={name}", *_SMALL,
                  "--output=out", *more)

  @_cases(
      ("pets.csv", b"path,label\npets/cat/1.png,9\n", "are numbers"),
      ("pets.csv", b"\xff\xfe\x00", "not UTF-8|UTF-16"),
      ("pets.csv", b'path,label\n"pets', "unexpected end|expected values"),
      ("pets.txt", b"pets/cat/1.png " + b"9" * 5000, "expected the path"),
      ("pets.txt", b"pets/cow/1.png 0\n", "not below|no images"),
      ("pets.txt", b"", "lists no images"),
      ("pets.tar", b"\0" * 100, "cut off|no labelled images"),
      ("pets.tar", b"PK\x03\x04", "cut off|no labelled images"),
      ("pets.tar", b"", "cut off|no labelled images"))
  def test_lists_and_tars(self, name, content, message):
    (self.root / name).write_bytes(content)
    self._evaluate(f"{name}.*({message})|'pets'.*({message})", name)

  @_cases(
      ("1.png", b"", "cannot be read as images"),
      ("1.png", b"<html>", "it is no image"),
      ("1.png", b"%!PS-Adobe-3.0 EPSF-3.0\n", "remove or mend"))
  def test_images(self, name, content, message):
    (self.root / "pets/cat" / name).write_bytes(content)
    self._evaluate(f"(?s){message}.*{name}|{name}.*{message}", "pets")

  @_cases(
      ("names.txt", b"cat\n\ndog\n", "line 2: expected a class name"),
      ("names.txt", b"cat\n", "got 1 class names"),
      ("names.txt", b"\xff", "not UTF-8"))
  def test_class_names(self, name, content, message):
    (self.root / name).write_bytes(content)
    self._evaluate(message, "pets", f"--config.data.class_names={name}")

  @_cases(
      ("config.json", _DEEP, "config.json is damaged"),
      ("config.json", json.dumps(tiny.SETTINGS).replace(
          '"num_hidden_layers": 2', '"num_hidden_layers": 1e9').encode(),
       "expected a whole number"),
      ("model.safetensors", (2**60).to_bytes(8, "little"), "is damaged"),
      ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n",
       "git lfs pull"),
      ("preprocessor_config.json", b'{"image_std": [0, 1, 1]}',
       "expected three finite numbers"),
      ("vocab.json", b'{"a": "b"}', "expected an id"),
      ("merges.txt", b"\xff", "merges.txt is damaged"),
      ("tokenizer.json", b"{", "tokenizer.json is damaged"))
  def test_checkpoints(self, name, content, message):
    shutil.copytree(shipped.folder(), self.root / "clip")
    (self.root / "clip" / name).write_bytes(content)
    self._evaluate(f"clip.*({message})", "pets", "--config.model.name=./clip")

  @parameterized.parameters(
      ("--config.method.weight=nan", "weight is nan|not a finite number"),
      ("--config.batch_size=1e9", "not a whole number"),
      ("--config.data.limit=99999999999999999999999999", "limit|pets"),
      ("--config.data.template=\ud800", "template|pets"),
      ("--config.data.nmae=x", "--config.data.name"),
      ("--config=nowhere.py", "nowhere.py is no file"))
  def test_flags(self, flag, message):
    self._evaluate(message, "./nowhere", flag)

  @_cases(
      ("../others.jpg", b"x", "leads out of the folder"),
      ("/others.jpg", b"x", "is no path below a folder"),
      ("2750/1.jpg", b"x" * 3, "EuroSAT|images"))
  def test_archives(self, name, content, message):
    (self.root / "sets").mkdir()
    with zipfile.ZipFile(self.root / "EuroSAT.zip", "w") as archive:
      archive.writestr(name, content)
    with contextlib.chdir(self.root):
      status, printed, error = command.here(
          "data", "prepare", "eurosat", "--root=sets", "--archives=.",
          folder=self.root)
    self.assertIn(status, (1, 2))
    self.assertNotIn("Traceback", error)
    self.assertRegex(printed + error, message)
    self.assertEqual((self._outer / "others").read_text(), "untouched")

  def _run(self):
    """The folder of a run, by the library."""
    rng = np.random.default_rng(0)
    run = self.root / "run"
    predictions.save(predictions.Predictions(
        rng.normal(size=(12, 3)).astype(np.float32),
        np.arange(12, dtype=np.int32) % 3, tuple(map(str, range(12))),
        ("cat", "dog", "owl"), settings=stages.setting(
            stages.Stages("zero_shot"))), run / "predictions/pets/zero_shot")
    redrawn.write(run, summary.Conventions(num_bins=3, num_resamples=5))
    return run

  @pytest.mark.slow
  def test_runs(self):
    run = self._run()
    (run / "predictions/pets/zero_shot.npz").rename(self.root / "aside.npz")
    for name, content, commands, message in (
        ("run.json", _DEEP, ("report", "failure"), "run.json is damaged"),
        ("run.json", b'{"command": 3}', ("report", "failure"),
         "run.json is damaged"),
        ("run.json", b'{"config.metrics.level": "x"}', ("report", "failure"),
         "config.metrics.level of run.json"),
        ("results.jsonl", b'{"method": "x"}\n',
         ("report", "recalibrate", "conformal"), "results.jsonl is damaged"),
        ("predictions/pets/zero_shot.npz", b"PK\x05\x06",
         ("report", "recalibrate", "conformal", "failure"),
         "zero_shot.npz.*damaged")):
      (self.root / "run").mkdir(exist_ok=True)
      shutil.copy(self.root / "aside.npz",
                  run / "predictions/pets/zero_shot.npz")
      before = (run / name).read_bytes() if (run / name).exists() else None
      (run / name).write_bytes(content)
      for one in commands:
        more = ("--share=0.5",) if one == "recalibrate" else ()
        self._refused(message, one, run, *more)
      if before is None:
        (run / name).unlink()
      else:
        (run / name).write_bytes(before)

  @_cases(
      ("theirs.npz", b"", "not a whole .npz"),
      ("theirs.csv", b"label,cat,dog\n0,1,x\n", "row 1, column 'dog'"),
      ("theirs.npy", b"\x93NUMPY\x01\x00", "no whole .npy"))
  def test_files_of_others(self, name, content, message):
    (self.root / name).write_bytes(content)
    self._refused(f"{name}.*{message}", "report", name, "--output=out")


if __name__ == "__main__":
  absltest.main()
