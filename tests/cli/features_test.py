"""`jaxcal features`, and the commands that read what it stored."""

import pathlib
import random

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pytest

from jaxcal import predictions
from jaxcal.features import store as stores
from tests.cli import command

_STORE = ("features", *command.small("features"), "--config.data.limit=12",
          "--chunk_size=2", "--dtype=float32")


def _contents(folder):
  return {path.relative_to(folder): path.read_bytes()
          for path in sorted(folder.rglob("*")) if path.is_file()}


class FeaturesTest(parameterized.TestCase):

  def _folder(self, name):
    return pathlib.Path(self.create_tempdir().full_path, name)

  @pytest.mark.slow
  def test_killed_and_finished_by_two_processes_is_the_undisturbed_store(self):
    whole, folder = self._folder("whole"), self._folder("killed")
    _, _, took = command.run_timed(*_STORE, f"--store={whole}")
    rng = random.Random(0)
    for _ in range(command.KILLS):
      # The first run also compiled, so later ones are at work sooner.
      command.kill_after(rng.uniform(0.2, 0.7) * took, *_STORE,
                         f"--store={folder}")
    processes = [command.start(*_STORE, f"--store={folder}", f"--shard={i}/2")
                 for i in range(2)]
    for process in processes:
      _, error = process.communicate()
      self.assertEqual(process.returncode, 0, error)
    self.assertTrue(stores.is_complete(stores.open_store(folder / "digits")))
    self.assertEqual(_contents(folder), _contents(whole))

  @pytest.mark.slow
  def test_evaluation_from_a_store_is_that_from_pixels(self):
    store = self._folder("store")
    small = (*command.SMALL, "--config.method.name=soc")
    command.here("features", *command.small("features"), f"--store={store}",
                 "--dtype=float32")
    outputs = []
    for extra in ((), (f"--config.data.store={store}",)):
      outputs.append(self._folder("run"))
      status, _, error = command.here(
          "evaluate", *small, *extra, f"--output={outputs[-1]}")
      self.assertEqual(status, 0, error)
    streamed, stored = (predictions.load(
        output / "predictions" / "digits" / "soc") for output in outputs)
    np.testing.assert_array_equal(stored.logits, streamed.logits)
    self.assertEqual(stored.settings["model.features"], "stored as float32")
    # Other views than the stored ones are refused before anything is computed.
    status, _, error = command.here(
        "evaluate", *small, f"--config.data.store={store}",
        "--config.views.seed=1", f"--output={self._folder('run')}")
    self.assertEqual(status, 2)
    self.assertIn("seed", error)
    output = self._folder("run")
    status, _, error = command.here(
        "evaluate", *small, "--config.method.name=ttl",
        f"--config.data.store={store}", f"--output={output}")
    self.assertEqual(status, 2)
    self.assertIn("ttl adapts the image tower: it needs images, which a store "
                  "does not have; leave out --config.data.store", error)
    self.assertFalse(output.exists())

  @parameterized.parameters(
      ((), "--store is missing"),
      (("--store=x", "--shard=2/2"), "--shard is '2/2', expected I/N"),
      (("--store=x", "--chunk_size=0"),
       "--chunk_size is 0, expected at least 1"),
      (("--store=x", "--config.data.classes=new"), "a store has whole sets"),
      (("--store=x", "--config.data.domain=Art"), "a store has whole sets"))
  def test_errors(self, arguments, message):
    status, _, error = command.here(
        "features", *command.small("features"), *arguments)
    self.assertEqual(status, 2)
    self.assertIn(message, error)


if __name__ == "__main__":
  absltest.main()
