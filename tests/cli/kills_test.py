"""Commands that are killed at random, again and again, end as undisturbed."""

import json
import pathlib
import random

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pytest
from safetensors import numpy as safetensors

from tests.cli import command

_TUNE = ("tune", "--config=configs/dor_base_to_new.py",
         "--config.data.name=shapes", "--config.data.limit=40",
         "--config.tune.num_shots=2", "--config.tune.num_seeds=2",
         "--config.tune.num_epochs=25", "--config.tune.num_context=4",
         "--config.tune.num_outliers=50", "--config.tune.name=kgcoop",
         "--config.metrics.num_resamples=20")
_FIT = ("posterior", "fit", "--config=configs/bayesvlm.py",
        "--num_pairs=60", "--candidates=24", "--config.batch_size=2")
_SELECT = ("posterior", "select", "--config=configs/bayesvlm.py",
           "--config.data.name=digits", "--config.data.limit=20",
           "--config.temperature.limit=10", "--strategies=random,epig_online",
           "--budgets=2,4", "--seeds=2", "--pool_limit=30", "--epochs=2",
           "--samples=4", "--config.metrics.num_resamples=20")


def _arrays(path):
  if path.suffix == ".safetensors":
    return safetensors.load_file(path)
  with np.load(path) as stored:
    return {name: stored[name] for name in stored.files}


@pytest.mark.slow
class KillsTest(parameterized.TestCase):

  def _assert_same(self, folder, other):
    """The same files; arrays and rows bit for bit."""
    names = lambda root: {
        path.relative_to(root) for path in root.rglob("*")
        if path.is_file() and not {"features", "digests", "work"} & set(
            path.relative_to(root).parts)}
    self.assertEqual(names(other), names(folder))
    compared = 0
    for name in names(folder):
      if name.suffix in (".npz", ".safetensors"):
        ours, theirs = _arrays(other / name), _arrays(folder / name)
        self.assertEqual(set(ours), set(theirs), name)
        for key in ours:
          self.assertEqual(ours[key].tobytes(), theirs[key].tobytes(), name)
        compared += 1
      elif name.suffix == ".jsonl":
        rows = lambda root, name=name: [
            json.loads(line) for line in (root / name).read_text().splitlines()]
        self.assertEqual(rows(other), rows(folder))
    self.assertGreater(compared, 0)

  def _killed_as_undisturbed(self, given, flag, seed):
    root = pathlib.Path(self.create_tempdir().full_path)
    _, _, took = command.run_timed(*given, f"{flag}={root / 'whole'}")
    rng, killed = random.Random(seed), 0
    for _ in range(command.KILLS):
      killed += command.kill_after(
          rng.uniform(0.2, 0.9) * took, *given, f"{flag}={root / 'killed'}")
    self.assertGreater(killed, 0)
    command.run_timed(*given, f"{flag}={root / 'killed'}")
    self._assert_same(root / "whole", root / "killed")

  def test_tune(self):
    self._killed_as_undisturbed(_TUNE, "--output", 1)

  def test_posterior_select(self):
    folder = f"--config.posterior.folder={self.create_tempdir().full_path}/p"
    command.run_timed(*_FIT, folder)
    self._killed_as_undisturbed((*_SELECT, folder), "--output", 3)


if __name__ == "__main__":
  absltest.main()
