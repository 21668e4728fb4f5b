"""docs/metrics.md names every measure, and the presets as they are."""

import ast
import importlib
import inspect
import pathlib
import pkgutil
import re

from absl.testing import absltest
import jax
import numpy as np

from jaxcal import metrics
from jaxcal.metrics import presets

_PAGE = (pathlib.Path(__file__).resolve().parents[2] / "docs" /
         "metrics.md").read_text(encoding="utf-8")
# What makes measures rather than being one.
_NOT_MEASURES = {
    "binning", "examples", "ranks", "presets",
    "calibration.calibration_error", "calibration.errors_of",
    "debiased.debiased_error", "selective.checked_groups",
    "statistics.weighted_mean",
    "statistics.resample_weights", "statistics.bootstrap_samples",
    "statistics.check_interval"}


def _public():
  """Functions of the room by the name under which the page has them."""
  for found in pkgutil.iter_modules(metrics.__path__):
    module = importlib.import_module(f"jaxcal.metrics.{found.name}")
    for name, function in inspect.getmembers(module, inspect.isfunction):
      full = f"{found.name}.{name}"
      if (function.__module__ == module.__name__ and not name.startswith("_")
          and not {found.name, full} & _NOT_MEASURES):
        yield full


def _rows(heading):
  """Cells of the table whose first heading is this."""
  table = re.search(rf"^\| {heading} \|.*\n((?:\|.*\n)+)", _PAGE, re.MULTILINE)
  return [[cell.strip() for cell in line.strip("|").split(" | ")]
          for line in table[1].splitlines()[1:]]


class PageTest(absltest.TestCase):

  def test_names_every_measure(self):
    modules = "|".join(
        found.name for found in pkgutil.iter_modules(metrics.__path__))
    named = set(re.findall(rf"`((?:{modules})\.\w+)`", _PAGE))
    self.assertEmpty(set(_public()) - named)
    for full in named:
      module, name = full.split(".")
      self.assertTrue(hasattr(
          importlib.import_module(f"jaxcal.metrics.{module}"), name), full)

  def test_every_module_is_of_the_room(self):
    self.assertEqual(
        metrics.__all__,
        [found.name for found in pkgutil.iter_modules(metrics.__path__)])

  def test_presets_are_as_they_are(self):
    expected = [(paper, name, preset)
                for paper, named in presets.PRESETS.items()
                for name, preset in named.items()]
    rows = _rows("paper")
    self.assertLen(rows, len(expected))
    for row, (paper, name, preset) in zip(rows, expected):
      module = preset.function.__module__.removeprefix("jaxcal.metrics.")
      self.assertEqual(row[:2], [paper, name])
      self.assertEqual(row[2], f"`{module}.{preset.function.__name__}`")
      read = ast.parse(f"dict({row[3].strip('`')})", mode="eval").body
      options = {one.arg: ast.literal_eval(one.value) for one in read.keywords}
      self.assertEqual(set(options), set(preset.options))
      for key, value in preset.options.items():
        if isinstance(value, str):
          self.assertEqual(options[key], value)
        else:
          self.assertAlmostEqual(options[key], value, 11)
      self.assertEqual(row[4:], [preset.source, preset.note])

  def test_its_code_runs(self):
    block, = re.findall(r"```python\n(.*?)```", _PAGE, re.DOTALL)
    names = {}
    with jax.numpy_rank_promotion("allow"):  # the default
      exec(block, names)
    for name in ("plain", "less_bias", "without_bins"):
      self.assertBetween(float(names[name]), 0, 0.1)
    np.testing.assert_allclose(names["found"], names["plain"], rtol=1e-5)


if __name__ == "__main__":
  absltest.main()
