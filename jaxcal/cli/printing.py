"""Results on the terminal, and what is to be known beside them."""

from collections.abc import Iterable
import sys


def notes(sentences: Iterable[str]) -> None:
  """Prints what is to be known beside the results, to stderr."""
  for sentence in sentences:
    print(f"jaxcal: {sentence}", file=sys.stderr)


def show(text: str, sentences: Iterable[str]) -> None:
  """Prints results, after what is to be known about them."""
  notes(sentences)
  print(text)
