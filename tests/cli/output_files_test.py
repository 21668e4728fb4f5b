"""Whose an output folder is, and what --overwrite removes from it."""

import json
import pathlib
import subprocess
import sys

from absl.testing import absltest
import numpy as np
import pytest

from jaxcal import predictions
from jaxcal.features import store as stores
from jaxcal.storage import atomic
from jaxcal.storage import lock
from jaxcal.storage import process
from tests.cli import command


def _files(folder):
  return sorted(path.relative_to(folder).as_posix()
                for path in folder.rglob("*") if path.is_file())


class CommandTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.output = pathlib.Path(self.create_tempdir().full_path, "run")

  def _evaluate(self, *arguments):
    return command.here(
        "evaluate", *command.SMALL, "--config.method.name=zero_shot",
        f"--output={self.output}", *arguments)

  @pytest.mark.slow
  def test_overwrite_keeps_what_it_did_not_write(self):
    status, _, error = self._evaluate()
    self.assertEqual((status, lock.NAME in _files(self.output)), (0, False))
    for name in ("notes.txt", "predictions/mine/x.npz"):
      (self.output / name).parent.mkdir(exist_ok=True)
      (self.output / name).write_text("mine")
    status, _, error = self._evaluate("--config.views.seed=1")
    self.assertEqual(status, 2)
    self.assertIn("views.seed: stored 0, asked 1", error)
    run = json.loads((self.output / "run.json").read_text())
    self.assertEqual(run["config.views.seed"], 0)  # as it was
    before = (self.output / "report.html").stat().st_mtime_ns
    status, _, error = self._evaluate("--config.views.seed=1", "--overwrite")
    self.assertEqual(status, 0, error)
    self.assertIn(f"jaxcal: kept in {self.output}, not written by a run of "
                  "this kind: notes.txt, predictions/mine/x.npz\n", error)
    self.assertEqual((self.output / "notes.txt").read_text(), "mine")
    self.assertEqual(
        (self.output / "predictions/mine/x.npz").read_text(), "mine")
    self.assertNotEqual(
        (self.output / "report.html").stat().st_mtime_ns, before)
    run = json.loads((self.output / "run.json").read_text())
    self.assertEqual(run["config.views.seed"], 1)

  @pytest.mark.slow
  def test_one_run_at_a_time(self):
    self.output.mkdir()
    with lock.hold(self.output):
      for arguments in ((), ("--overwrite",)):
        status, printed, error = self._evaluate(*arguments)
        self.assertEqual((status, printed), (2, ""))
        self.assertRegex(error, (
            f"jaxcal: {self.output} is in use by another run: process .* "
            "since .*Wait until it has ended"))
      self.assertEqual(_files(self.output), [lock.NAME])
    # Of a process that was killed.
    code = ("import os, sys\nfrom jaxcal.storage import lock\n"
            "with lock.hold(sys.argv[1]):\n  os.kill(os.getpid(), 9)")
    done = subprocess.run([sys.executable, "-c", code, self.output])
    self.assertEqual(done.returncode, -9)
    left = self.output / atomic.leftover_name(
        process.current()._replace(pid=2**30))
    left.touch()
    self.assertEqual(_files(self.output), [left.name, lock.NAME])
    status, _, error = self._evaluate()
    self.assertEqual(status, 0, error)
    self.assertRegex(error, f"jaxcal: {self.output} is taken over from a run "
                     "that ended without giving it back: process .*, since")
    self.assertFalse({left.name, lock.NAME} & set(_files(self.output)))

  @pytest.mark.slow
  def test_damaged_parts_and_predictions(self):
    status, _, error = self._evaluate()
    self.assertEqual(status, 0, error)
    place = self.output / "predictions" / "digits" / "zero_shot"
    whole = predictions.load(place)
    # Damaged predictions are named; without them they are computed again.
    arrays = atomic.with_ending(place, "npz")
    arrays.write_bytes(arrays.read_bytes()[:99])
    status, _, error = self._evaluate()
    self.assertEqual(status, 2)
    self.assertRegex(error, "zero_shot.npz is not the file.*damaged.*Remove ze")
    arrays.unlink()
    with command.stopped_at_write(4) as stopped:
      self._evaluate()
    self.assertTrue(stopped[1])
    part, *_ = sorted(place.parent.glob("parts-*/[0-9]*.npz"))
    part.write_bytes(b"")
    with self.assertLogs("absl", "WARNING") as logs:
      status, _, error = self._evaluate()
    self.assertEqual(status, 0, error)
    self.assertIn(f"{part} is damaged", logs.output[0])
    again = predictions.load(place)
    np.testing.assert_array_equal(again.logits, whole.logits)
    aside, = part.parent.iterdir()
    self.assertEqual(aside.name, f"{part.name}.damaged")

  def test_a_store_whose_name_leads_elsewhere(self):
    folder = self.output.with_name("stores")
    status, _, error = command.here(
        "features", *command.SMALL[:1], "--config.data.name=digits",
        "--config.data.limit=6", "--config.views.number=8",
        f"--store={folder}")
    self.assertEqual(status, 0, error)
    path = folder / "digits" / "manifest.json"
    self.assertEqual(stores.open_store(path.parent).manifest.data, "digits")
    path.write_text(json.dumps(
        json.loads(path.read_text()) | {"data": "../../../x"}))
    status, _, error = self._evaluate(f"--config.data.store={folder}")
    self.assertEqual(status, 2)
    self.assertRegex(error, "manifest.json is damaged, or not to be trusted: "
                     "as data set, '../../../x' cannot be the name of a file")
    self.assertFalse(self.output.exists())
    self.assertLen(list(self.output.parent.iterdir()), 1)


if __name__ == "__main__":
  absltest.main()
