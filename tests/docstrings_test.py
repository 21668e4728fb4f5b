"""Docstrings of what is public: there, and of the arguments that there are."""

import ast
import pathlib
import re

from absl.testing import absltest
from absl.testing import parameterized

_PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "jaxcal"
# The command's modules are no library.
_FILES = sorted(path.relative_to(_PACKAGE).as_posix()
                for path in _PACKAGE.rglob("*.py")
                if "cli" not in path.relative_to(_PACKAGE).parts)


def _public(node, inside=""):
  """Public functions and classes below a node, by their full names."""
  for one in ast.iter_child_nodes(node):
    if isinstance(one, (ast.ClassDef, ast.FunctionDef)) and (
        not one.name.startswith("_")):
      yield f"{inside}{one.name}", one
      if isinstance(one, ast.ClassDef):
        yield from _public(one, f"{one.name}.")


def _arguments(function):
  """Names of what a call may give, `self` and `cls` apart."""
  given = function.args
  found = [*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs,
           given.kwarg]
  return [one.arg for one in found if one and one.arg not in ("self", "cls")]


def _described(docstring):
  """Names of the entries of a section of arguments; None without one."""
  section = re.search(r"^Args:\n((?:  .*\n|\n)*)", f"{docstring}\n", re.M)
  return section and re.findall(r"^  \*{0,2}(\w+): ", section[1], re.M)


def _is_overload(one):
  return any(ast.unparse(decorator).endswith("overload")
             for decorator in one.decorator_list)


class DocstringsTest(parameterized.TestCase):

  @parameterized.parameters(*_FILES)
  def test_is_there_and_has_every_argument_once(self, file):
    tree = ast.parse((_PACKAGE / file).read_text(encoding="utf-8"))
    self.assertTrue(ast.get_docstring(tree), file)
    for name, one in _public(tree):
      docstring = ast.get_docstring(one)
      if docstring is None and "." in name or _is_overload(one):
        continue  # a method may be one of the base class
      self.assertTrue(docstring, f"{file}: {name} has no docstring")
      described = _described(docstring)
      if isinstance(one, ast.FunctionDef) and described is not None:
        self.assertEqual(described, _arguments(one), f"{file}: {name}")


if __name__ == "__main__":
  absltest.main()
