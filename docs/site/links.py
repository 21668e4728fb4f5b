"""MkDocs hook: what pages link to outside of docs/ comes along.

A link such as `../benchmarks/results/quickstart/results.md` leads somewhere
wherever the markdown of the repository is looked at. The site holds docs/
alone, so files that are linked are taken into it, those that they link to as
well, and links are written anew.
"""

from collections.abc import Iterator
import logging
import os
import pathlib
import posixpath
import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure import files as files_lib
from mkdocs.structure import pages

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_log = logging.getLogger("mkdocs.hooks.links")

# A page called README would be an index, of which the site has one.
_RENAMED = {"README.md": "first_steps.md"}
_RUNS = "benchmarks/results/"
_FENCED = re.compile(r"(^ *```.*?^ *```$)", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\((?![a-z]+:)([^)\s#]+)")


def on_files(
    files: files_lib.Files, *, config: MkDocsConfig) -> files_lib.Files:
  """The files of docs/, and those outside that they lead to.

  Args:
    files: Files that MkDocs has found in docs/.
    config: Settings of the site.
  """
  waiting = [path for file in files.documentation_pages()
             if (path := _path(file)) is not None]
  for page in waiting:  # which grows
    for path in _targets(page):
      place = _place(path)
      if files.get_file_from_path(place) is not None:
        continue
      if not (_ROOT / path).is_file():
        _log.warning("%s links to %s, which is no file", page, path)
        continue
      files.append(files_lib.File.generated(
          config, place, abs_src_path=str(_ROOT / path)))
      if path.endswith(".md"):
        waiting.append(path)
  return files


def on_page_markdown(
    markdown: str, *, page: pages.Page, config: MkDocsConfig,
    files: files_lib.Files,
) -> str:
  """A page whose links lead to where files lie in the site.

  Args:
    markdown: Text of the page.
    page: The page, for where it lies.
    config: Settings of the site.
    files: All files of the site.
  """
  del config, files
  path = _path(page.file)
  if path is None:  # made by another hook, for the site
    return markdown
  if path.startswith(_RUNS):
    markdown = _headed(markdown, path)
    # Every word of a table would be found on each of these pages.
    page.meta["search"] = {"exclude": True}
    page.meta["hide"] = ["navigation", "toc"]  # so that tables have more room
  return "".join(
      part if number % 2 else _LINK.sub(
          lambda found: f"]({_moved(found[1], path)}", part)
      for number, part in enumerate(_FENCED.split(markdown)))


def _headed(markdown: str, path: str) -> str:
  """Tables of a run, which have no heading, under the name of the run."""
  folder = posixpath.dirname(path)
  back = posixpath.relpath("docs/runs.md", folder)
  return (f"# {folder.removeprefix(_RUNS)}\n\n"
          f"One of the [stored runs]({back}).\n\n{markdown}")


def _path(file: files_lib.File) -> str | None:
  """A file's path in the repository; None of one that is not there."""
  if file.abs_src_path is None:
    return None
  return pathlib.Path(os.path.relpath(file.abs_src_path, _ROOT)).as_posix()


def _targets(page: str) -> Iterator[str]:
  """Paths in the repository of the files outside of docs/ of a page's links."""
  text = (_ROOT / page).read_text(encoding="utf-8")
  for part in _FENCED.split(text)[::2]:
    for link in _LINK.findall(part):
      path = posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
      if not path.startswith("docs/"):
        yield path


def _place(path: str) -> str:
  """Where a file of the repository lies in the site."""
  if path.endswith(".ipynb"):  # which is a page there
    path = path.removesuffix(".ipynb") + ".md"
  return _RENAMED.get(path, path.removeprefix("docs/"))


def _moved(link: str, page: str) -> str:
  """A link of the page at that path, from place to place in the site."""
  folder = posixpath.dirname(page)
  path = posixpath.normpath(posixpath.join(folder, link))
  return posixpath.relpath(_place(path), posixpath.dirname(_place(page)) or ".")
