"""The notebooks hold their outputs, and give them again."""

import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pytest

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_FOLDER = _ROOT / "docs" / "notebooks"
_NAMES = ("calibrate_logits", "own_method", "test_time_methods", "uncertainty")
_ALL = parameterized.parameters(*_NAMES)
_PER_NOTEBOOK, _PER_PICTURE = 300_000, 80_000  # bytes
# Where the outputs are not those of the machine that wrote them, and where they
# are of this one.
_MACHINE = re.compile(
    r"/(tmp|root|home|work|usr|opt|Users|private)/|[A-Z]:\\|ipykernel_"
    r"|site-packages")
# What the printed numbers of cells with the tag "key" may be off by, on another
# processor or with other versions: predictions of some images turn, which is up
# to two points of 300 images, and rounding makes more of it along a stream.
_POINTS, _RELATIVE, _ABSOLUTE = 2.0, 0.05, 0.02
_NUMBER = re.compile(r"(?<![\w.])([-+]?\d+(?:\.\d+)?)( %)?")
_RUN = "from nbclient import cli; cli.main()"


def _read(path):
  return json.loads(path.read_text(encoding="utf-8"))


def _code(notebook):
  return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def _text(notebook):
  """The words of its cells, without those of its code."""
  return "\n".join("".join(cell["source"]) for cell in notebook["cells"]
                   if cell["cell_type"] == "markdown")


def _pictures(notebook):
  shown = [output.get("data", {}) for cell in _code(notebook)
           for output in cell["outputs"]]
  return [one["image/png"] for one in shown if "image/png" in one]


def _key_texts(notebook):
  """What the cells with the key numbers print, by the cell's number."""
  return {number: "".join(
      "".join(output.get("text", [])) for output in cell["outputs"])
          for number, cell in enumerate(_code(notebook))
          if "key" in cell["metadata"].get("tags", [])}


def _apart(found, stored):
  """Numbers that are off by more than they may be, and words that differ."""
  words = [_NUMBER.sub("#", text) for text in (found, stored)]
  if words[0] != words[1]:
    return [tuple(words)]
  pairs = [(float(one[1]), float(other[1]), bool(other[2])) for one, other
           in zip(_NUMBER.finditer(found), _NUMBER.finditer(stored))]
  return [(one, other) for one, other, percent in pairs if not np.isclose(
      one, other, atol=_POINTS if percent else _ABSOLUTE,
      rtol=0 if percent else _RELATIVE)]


class NotebooksTest(parameterized.TestCase):

  def test_all_are_known(self):
    self.assertCountEqual(
        (path.stem for path in _FOLDER.glob("*.ipynb")), _NAMES)

  @_ALL
  def test_every_cell_was_run_in_order(self, name):
    cells = _code(_read(_FOLDER / f"{name}.ipynb"))
    self.assertEqual([cell["execution_count"] for cell in cells],
                     list(range(1, len(cells) + 1)))
    outputs = [output for cell in cells for output in cell["outputs"]]
    # Warnings would be there, too.
    self.assertNotIn("stderr", [output.get("name") for output in outputs])
    self.assertNotIn("error", [output["output_type"] for output in outputs])
    for cell in cells:
      if re.search(r"print\(|Markdown\(|figures\.", "".join(cell["source"])):
        self.assertNotEmpty(cell["outputs"])

  @_ALL
  def test_it_is_light(self, name):
    path = _FOLDER / f"{name}.ipynb"
    self.assertLess(path.stat().st_size, _PER_NOTEBOOK)
    pictures = _pictures(_read(path))
    self.assertNotEmpty(pictures)
    for picture in pictures:
      self.assertLess(len(picture), _PER_PICTURE)
    self.assertNotIn("image/svg", path.read_text("utf-8"))

  @_ALL
  def test_it_says_nothing_of_the_machine(self, name):
    found = _MACHINE.search((_FOLDER / f"{name}.ipynb").read_text("utf-8"))
    self.assertIsNone(found)

  @_ALL
  def test_its_code_is_as_wide_as_other_code(self, name):
    for cell in _code(_read(_FOLDER / f"{name}.ipynb")):
      for line in "".join(cell["source"]).splitlines():
        self.assertLessEqual(len(line), 80, line)

  @_ALL
  def test_its_links_lead_to_files(self, name):
    links = re.findall(
        r"\]\((?!http)([^)#]+)[^)]*\)", _text(_read(_FOLDER / f"{name}.ipynb")))
    self.assertNotEmpty(links)
    for link in links:
      self.assertTrue((_FOLDER / link).exists(), link)

  @_ALL
  def test_key_numbers_are_there(self, name):
    texts = _key_texts(_read(_FOLDER / f"{name}.ipynb"))
    self.assertGreaterEqual(
        sum(len(_NUMBER.findall(text)) for text in texts.values()), 6)
    for text in texts.values():
      self.assertEqual(_apart(text, text), [])

  def test_what_counts_as_the_same(self):
    stored = "tda: accuracy 71.2 %, ECE 9.0 %, NLL 1.250"
    for found in ("tda: accuracy 72.9 %, ECE 7.1 %, NLL 1.310",):
      self.assertEqual(_apart(found, stored), [])
    for found in ("tda: accuracy 73.3 %, ECE 9.0 %, NLL 1.250",
                  "tda: accuracy 71.2 %, ECE 9.0 %, NLL 1.350",
                  "dmn: accuracy 71.2 %, ECE 9.0 %, NLL 1.250",
                  "tda: accuracy 71.2 %, ECE 9.0 %", ""):
      self.assertLen(_apart(found, stored), 1, found)

  @_ALL
  @pytest.mark.slow
  def test_it_runs_and_prints_the_same(self, name):
    for package in ("nbclient", "ipykernel"):
      if importlib.util.find_spec(package) is None:
        self.skipTest(f"{package} is not installed: pip install "
                      "'jaxcal[notebooks]'")
    folder = pathlib.Path(self.create_tempdir().full_path)
    shutil.copy(_FOLDER / f"{name}.ipynb", folder)
    # With the compiler as users have it.
    environment = {key: value for key, value in os.environ.items()
                   if key not in ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")}
    done = subprocess.run(
        [sys.executable, "-c", _RUN, "--inplace", folder / f"{name}.ipynb"],
        env=environment | {"PYTHONPATH": str(_ROOT)}, check=False,
        capture_output=True, text=True)
    self.assertEqual(done.returncode, 0, done.stderr)
    found = _key_texts(_read(folder / f"{name}.ipynb"))
    stored = _key_texts(_read(_FOLDER / f"{name}.ipynb"))
    self.assertEqual(list(found), list(stored))
    for number, text in stored.items():
      self.assertEqual(_apart(found[number], text), [], f"cell {number}")


if __name__ == "__main__":
  absltest.main()
