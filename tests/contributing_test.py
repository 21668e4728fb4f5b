"""Steps of CONTRIBUTING.md that no other test looks at."""

import ast
import importlib
import inspect
import pathlib
import re

from absl.testing import absltest

import jaxcal
from jaxcal import losses
from jaxcal.adapt import methods

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_DOCS = {path.name: path.read_text(encoding="utf-8")
         for path in (_ROOT / "docs").glob("*.md")}


class ContributingTest(absltest.TestCase):

  def test_methods_are_public_and_on_a_page(self):
    text = "\n".join(_DOCS.values())
    for name, kind in methods.METHODS.items():
      self.assertIs(getattr(jaxcal, kind.__name__), kind)
      self.assertRegex(text, rf"\b{name}\b")

  def test_regularisers_are_held_to_what_all_of_them_keep_to(self):
    """Functions of text features, perhaps with numbers, to one number."""
    found = set()
    for name in losses.__all__:
      module = importlib.import_module(f"jaxcal.losses.{name}")
      for function in vars(module).values():
        if inspect.isfunction(function) and (
            function.__module__ == module.__name__):
          parameters = list(inspect.signature(function).parameters.values())
          if parameters[0].name == "text_features" and all(
              one.kind is one.KEYWORD_ONLY for one in parameters[1:]) and (
                  'Array, ""' in _returned(function)):
            found.add(function.__name__)
    table = (_ROOT / "tests" / "losses" / "regularisers_test.py").read_text()
    self.assertGreater(len(found), 4)
    for name in found:
      self.assertIn(f".{name}", table)

  def test_benchmarks_have_a_row(self):
    programs = [path.stem for path in (_ROOT / "benchmarks").glob("*.py")
                if "__main__" in path.read_text(encoding="utf-8")]
    rows = re.findall(
        r"^\| `python -m benchmarks\.(\w+)` \|", _DOCS["costs.md"], re.M)
    self.assertEqual(rows, sorted(programs))

  def test_stored_runs_have_a_row(self):
    results = _ROOT / "benchmarks" / "results"
    runs = {path.parent.relative_to(results).as_posix() for name in (
        "run.json", "sets.json") for path in results.rglob(name)}
    rows = re.findall(r"^\| ([\w/]+) \|", _DOCS["runs.md"], re.M)
    self.assertCountEqual(rows, [*runs, "run"])
    records = {path.name for path in results.glob("*.json")}
    self.assertContainsSubset(records, re.findall(
        r"\[(\w+\.json)\]", _DOCS["costs.md"]))


def _returned(function):
  """The annotation of what a function returns, as it is written."""
  tree = ast.parse(inspect.getsource(function))
  return ast.unparse(tree.body[0].returns or ast.Constant(None)).replace(
      "''", '""')


if __name__ == "__main__":
  absltest.main()
