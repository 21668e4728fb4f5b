"""Griffe extension: docstrings become markdown where they are not.

Indented blocks of code and lists become fenced ones, and formulas MathML, which
browsers draw by themselves.
"""

import ast
from collections.abc import Iterator
import re
import textwrap
from typing import Any

import griffe
from latex2mathml import converter

# "Args:" and the like, which griffe reads by itself.
_SECTION = re.compile(r"[A-Z]\w*:\n ")
_MATH = re.compile(r"\.\. math::\s*")


class Docstrings(griffe.Extension):
  """Rewrites every docstring once it is known."""

  def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
    """Rewrites the docstring of an object.

    Args:
      obj: Module, class, function or attribute.
      kwargs: Further arguments of griffe, of no use here.
    """
    del kwargs
    if obj.docstring is not None:
      obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(text: str) -> str:
  """A docstring with its indented blocks fenced and its formulas drawn.

  Args:
    text: Docstring without common indentation.
  """
  return "\n\n".join(_parts(text))


def _parts(text: str) -> Iterator[str]:
  """Its parts between blank lines; an indented block may have some within."""
  block: list[str] = []
  in_section = False
  for part in re.split(r"\n\s*\n", text):
    first = part.split("\n")[0]
    if first[:1].isspace() and not in_section:
      block.append(part)
      continue
    if block:
      yield _fenced("\n\n".join(block))
      block = []
    if not first[:1].isspace():
      in_section = bool(_SECTION.match(part))
    yield _formula(part) if _MATH.match(part) else part
  if block:
    yield _fenced("\n\n".join(block))


def _fenced(block: str) -> str:
  code = textwrap.dedent(block)
  return f"```{_language(code)}\n{code}\n```"


def _language(code: str) -> str:
  """Python where it is, so that it gets colours."""
  try:
    ast.parse(code)
  except SyntaxError:
    return "text"
  return "python"


def _formula(part: str) -> str:
  """A formula as a block of its own."""
  latex = " ".join(line.strip() for line in _MATH.sub("", part).split("\n"))
  # The converter takes no brace for a delimiter.
  latex = re.sub(r"\\([Bb]ig)\\([{}])", r"\\\2", latex)
  drawn = converter.convert(latex, display="block")
  return f'<div class="formula">{drawn}</div>'
