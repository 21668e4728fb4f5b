"""Progress bars, drawn by the first process alone."""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import sys
from typing import Any

import jax
import tqdm


@contextlib.contextmanager
def bar(
    name: str, total: int, unit: str = "image", *, delay: float = 0
) -> Iterator[tqdm.tqdm]:
  """A progress bar; in a log file a line every half minute is enough.

  Args:
    name: Text in front of the bar.
    total: Units in all.
    unit: Name of a unit.
    delay: Seconds before the bar is shown, for work that is quick as a rule.
  """
  interval = 0.2 if sys.stderr.isatty() else 30
  with tqdm.tqdm(total=total, desc=name, unit=unit, mininterval=interval,
                 disable=bool(jax.process_index()), delay=delay) as drawn:
    yield drawn


@contextlib.contextmanager
def reported(
    name: str, unit: str = "image") -> Iterator[Callable[..., None]]:
  """A function of (done, total) that draws a bar from its first call on.

  It takes a note to stand behind the bar as a third argument.

  Args:
    name: Text in front of the bar.
    unit: Name of a unit.
  """
  with contextlib.ExitStack() as stack:
    drawn: Any = None

    def report(done, total, note=""):
      nonlocal drawn
      if drawn is None:
        drawn = stack.enter_context(bar(name, total, unit))
      if note:
        drawn.set_postfix_str(note, refresh=False)
      drawn.update(done - drawn.n)

    yield report


@contextlib.contextmanager
def of_stages(
    units: Mapping[str, str] | None = None, *, name: str = ""
) -> Iterator[Callable[[str, int, int], None]]:
  """One bar after the other, each for a stage.

  Args:
    units: Names of the units by stage; images where a stage is not named.
    name: Text in front of the stages' names.

  Yields:
    What a library function takes as `progress`: called with a stage, and the
    numbers of its units done and in all.
  """
  with contextlib.ExitStack() as stack:
    current: str | None = None
    drawn: Any = None

    def report(stage, done, total):
      nonlocal current, drawn
      if stage != current:
        stack.close()
        current, drawn = stage, stack.enter_context(bar(
            f"{name}{stage}", total, (units or {}).get(stage, "image"),
            # Of files that are known already there is nothing to see.
            delay=3 if stage.endswith("files") else 0))
      drawn.update(done - drawn.n)

    yield report
