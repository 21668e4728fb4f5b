"""The command for GPUs runs on a CPU, in tiny sizes."""

import json
import os
import pathlib
import subprocess
import sys
import time

from absl.testing import absltest
import pytest

from benchmarks import gpu
from benchmarks import image_tower
from benchmarks import processes
from benchmarks import sizes

_ROOT = pathlib.Path(__file__).resolve().parents[2]


def _run(*arguments):
  # Not the suite's virtual devices.
  environment = os.environ | {
      "JAX_PLATFORMS": "cpu",
      "XLA_FLAGS": "--xla_backend_optimization_level=0"}
  return subprocess.run(
      [sys.executable, "-m", "benchmarks.gpu", *arguments], cwd=_ROOT,
      env=environment, capture_output=True, text=True, check=False)


class GpuTest(absltest.TestCase):

  def test_all_parts_take_less_than_eight_minutes(self):
    limits = [part.limit for part in gpu.PARTS.values()]
    self.assertLess(limits[0] + sum(limits), 8 * 60)

  @pytest.mark.slow
  def test_a_cpu_is_not_measured_at_full_size(self):
    done = _run()
    self.assertEqual(done.returncode, 2)
    self.assertIn("no accelerator here that JAX knows", done.stderr)
    self.assertIn("--tiny", done.stderr)

  def test_parts_of_the_same_code_are_kept(self):
    path = pathlib.Path(self.create_tempdir().full_path, "gpu.json")
    environment = {"source": "1", "jax": "2", "jaxlib": "3", "device": "4"}
    self.assertEqual(gpu._stored(path, environment), {})
    path.write_text(json.dumps(
        {"environment": environment, "parts": {"devices": {}}}), "utf-8")
    self.assertEqual(gpu._stored(path, environment), {"devices": {}})
    self.assertEqual(gpu._stored(path, environment | {"source": "5"}), {})

  @pytest.mark.slow
  def test_tiny(self):
    path = pathlib.Path(self.create_tempdir().full_path, "gpu.json")
    done = _run("--tiny", f"--output={path}")
    self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
    found = json.loads(path.read_text("utf-8"))
    self.assertEqual(list(found["parts"]), list(gpu.PARTS))
    for name, part in found["parts"].items():
      self.assertIsNone(part["error"], name)
      self.assertNotEmpty(part["rows"], name)
    self.assertEqual(found["environment"]["backend"], "cpu")
    exact, default, half, *_ = found["parts"]["precision"]["rows"][::2]
    # A CPU knows no difference between these.
    self.assertEqual(exact["largest_difference"], 0)
    self.assertEqual(default["largest_difference"], 0)
    self.assertGreater(half["largest_difference"], 0)


class ProcessesTest(absltest.TestCase):

  def test_what_a_call_gives(self):
    outcome = processes.alone(os.path.join, "a", "b", limit=60)
    self.assertEqual((outcome.result, outcome.error), (os.path.join("a", "b"),
                                                       None))

  def test_what_goes_wrong(self):
    self.assertEqual(processes.alone(int, "x", limit=60).error,
                     "ValueError: invalid literal for int() with base 10: 'x'")
    self.assertEqual(processes.alone(os._exit, 3, limit=60).error,
                     "its process ended with 3")

  def test_what_takes_too_long(self):
    outcome = processes.alone(time.sleep, 600, limit=0.1)
    self.assertEqual(outcome.error, "not done within 0.1 s")


class ImageTowerTest(absltest.TestCase):

  @pytest.mark.slow
  def test_operations_are_those_of_the_sizes(self):
    for config in sizes.MODELS.values():
      vision = config.vision
      patches = (config.image_size // config.patch_size)**2
      tokens, width = patches + 1, vision.width
      layer = tokens * (4 * width**2 + 2 * width * vision.mlp_width)
      layer += 2 * tokens**2 * width
      first = patches * 3 * config.patch_size**2 * width
      self.assertEqual(
          image_tower.flop_per_image(config),
          2 * (vision.layers * layer + first + width * config.projection))


if __name__ == "__main__":
  absltest.main()
