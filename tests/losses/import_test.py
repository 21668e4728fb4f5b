"""Losses and metrics load nothing heavy: only jax, numpy and themselves."""

import json
import pathlib
import subprocess
import sys

from absl.testing import absltest

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_FOREIGN = (
    "transformers", "matplotlib", "absl.flags", "ml_collections", "torch",
    "sklearn", "flax", "optax", "tensorflow")


class ImportTest(absltest.TestCase):

  def test_nothing_heavy_is_loaded(self):
    modules = [
        f"jaxcal.{package}.{path.stem}"
        for package in ("losses", "metrics")
        for path in sorted((_ROOT / "jaxcal" / package).glob("*.py"))
        if path.stem != "__init__"]
    self.assertIn("jaxcal.losses.entropy", modules)
    self.assertIn("jaxcal.metrics.binning", modules)
    program = (
        "import importlib, json, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "print(json.dumps(sorted(sys.modules)))")
    loaded = json.loads(subprocess.run(
        [sys.executable, "-c", program], cwd=_ROOT, check=True,
        capture_output=True, text=True).stdout)
    self.assertContainsSubset(modules, loaded)
    self.assertEmpty(set(_FOREIGN) & set(loaded))
    own = {name.split(".")[1] for name in loaded if name.startswith("jaxcal.")}
    self.assertEqual(own, {
        "compiled", "lazy", "losses", "metrics", "spelling", "typing"})


if __name__ == "__main__":
  absltest.main()
