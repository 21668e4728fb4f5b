"""MkDocs hook: notebooks become pages, with the outputs that they have."""

from collections.abc import Iterator
import json
import pathlib
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure import files as files_lib


def on_files(
    files: files_lib.Files, *, config: MkDocsConfig) -> files_lib.Files:
  """The files of the site, with a page in place of each notebook.

  Args:
    files: Files so far.
    config: Settings of the site.
  """
  for file in list(files):
    if file.src_uri.endswith(".ipynb"):
      files.remove(file)
      files.append(files_lib.File.generated(
          config, file.src_uri.removesuffix(".ipynb") + ".md",
          content=as_markdown(pathlib.Path(file.abs_src_path))))
  return files


def as_markdown(path: pathlib.Path) -> str:
  """A notebook as the text of a page.

  Args:
    path: Path of the notebook.
  """
  notebook = json.loads(path.read_text(encoding="utf-8"))
  return "\n\n".join(
      part for cell in notebook["cells"] for part in _parts(cell))


def _parts(cell: dict[str, Any]) -> Iterator[str]:
  """What a cell says, and what came out of it."""
  source = "".join(cell["source"])
  if cell["cell_type"] != "code":
    yield source
    return
  yield f"```python\n{source}\n```"
  for output in cell["outputs"]:
    found = output.get("data", {})
    if "text" in output:
      yield _text(output["text"])
    elif "image/png" in found:
      image = "".join("".join(found["image/png"]).split())
      yield f"![](data:image/png;base64,{image})"
    elif "text/markdown" in found:
      yield "".join(found["text/markdown"])
    elif "text/plain" in found:
      yield _text(found["text/plain"])


def _text(lines: list[str] | str) -> str:
  text = "".join(lines).rstrip("\n")
  return f"```text\n{text}\n```"
