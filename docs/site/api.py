"""MkDocs hook: a page of the reference for `jaxcal` and for each of its rooms.

The pages are made from the public names, so that none is forgotten; what they
say is in the docstrings.
"""

import ast
from collections.abc import Iterator
import importlib
import json
import pathlib

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure import files as files_lib

import jaxcal

# Public names: rooms and modules, and what stands in a module.
_MODULES = sorted(name for name, (_, attribute) in jaxcal._EXPORTS.items()
                  if attribute is None)
_OBJECTS = {name: f"{module}.{attribute}"
            for name, (module, attribute) in jaxcal._EXPORTS.items()
            if attribute is not None}


def on_files(
    files: files_lib.Files, *, config: MkDocsConfig) -> files_lib.Files:
  """The files of the site, and the pages of the reference.

  Args:
    files: Files so far.
    config: Settings of the site.
  """
  texts = {"index": _face()} | {
      name: "\n".join(_module(f"jaxcal.{name}", level=1)) for name in _MODULES}
  for name, text in texts.items():
    files.append(files_lib.File.generated(
        config, f"api/{name}.md", content=text))
  return files


def _face() -> str:
  """The page of the names that `import jaxcal` gives."""
  lines = ["# jaxcal", "", _block("jaxcal", members=False), "", "## Modules",
           "", "| module | what it has |", "| --- | --- |"]
  for name in _MODULES:
    lines.append(f"| [`jaxcal.{name}`]({name}.md) | {_about(name)} |")
  for name, path in _OBJECTS.items():
    # Known by this name here alone, by its module's in the whole site.
    lines += ["", _block(path, show_root_heading=True, heading_level=2,
                         heading=f"jaxcal.{name}", toc_label=name,
                         skip_local_inventory=True)]
  return "\n".join(lines)


def _module(name: str, level: int) -> Iterator[str]:
  """A heading for a module and all that it has, modules within it, too."""
  yield f"{'#' * level} {name}\n"
  within = _within(name)
  if not within:
    yield _block(name, heading_level=level + 1)
    return
  yield _block(name, members=False)
  for one in within:
    yield ""
    yield from _module(f"{name}.{one}", level=min(level + 1, 2))


def _block(path: str, **options: object) -> str:
  """What mkdocstrings makes the documentation of an object of."""
  return f"::: {path}\n    options: {json.dumps(options)}"  # YAML, too


def _source(name: str) -> pathlib.Path:
  """The file of a module, which is not imported for that."""
  path = pathlib.Path(jaxcal.__file__).parents[1].joinpath(*name.split("."))
  return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _about(name: str) -> str:
  """The first line of a module's docstring."""
  tree = ast.parse(_source(f"jaxcal.{name}").read_text(encoding="utf-8"))
  return (ast.get_docstring(tree) or "").partition("\n")[0]


def _within(name: str) -> list[str]:
  """The public modules of a package; none of a module."""
  if _source(name).name != "__init__.py":
    return []
  return importlib.import_module(name).__all__  # which loads none of them
