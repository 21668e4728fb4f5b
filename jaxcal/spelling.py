"""Words of errors: what was perhaps meant by a name, long lists cut short."""

from collections.abc import Iterable, Sequence
import difflib

_MAX_LISTED = 10


def near(name: str, names: Iterable[str]) -> list[str]:
  """The names that are spelt much like `name`, the likeliest first.

  Args:
    name: Name that was given; upper and lower case count alike.
    names: Names that there are.
  """
  by_lower: dict[str, list[str]] = {}
  for one in names:
    by_lower.setdefault(one.lower(), []).append(one)
  return [one for lower in difflib.get_close_matches(name.lower(), by_lower)
          for one in by_lower[lower]]


def question(meant: Sequence[str]) -> str:
  """"did you mean A or B?"; nothing where nothing may be meant."""
  return f"did you mean {' or '.join(meant)}?" if meant else ""


def choices(name: str, names: Iterable[str]) -> str:
  """How an error on an unknown name ends.

  Args:
    name: Name that was given.
    names: Names that there are.

  Returns:
    "did you mean B? choose from: A, B, C." or its second half.
  """
  names = list(names)
  listed = f"choose from: {', '.join(names)}."
  return f"{question(near(name, names))} {listed}".lstrip()


def shortened(lines: Sequence[str]) -> list[str]:
  """The first lines of a long list, and how many more there are."""
  more = len(lines) - _MAX_LISTED
  return [*lines[:_MAX_LISTED], *([f"and {more} more"] if more > 0 else [])]
