"""Bars for library calls that tell how far they are."""

from collections.abc import Callable, Iterator, Mapping
import contextlib
from typing import Any

from jaxcal.cli import experiment


@contextlib.contextmanager
def reported(
    name: str, unit: str = "image") -> Iterator[Callable[..., None]]:
  """A function of (done, total) that draws a bar from its first call on.

  It takes a note to stand behind the bar as a third argument.

  Args:
    name: What stands in front of the bar.
    unit: What is counted.
  """
  with contextlib.ExitStack() as stack:
    bars: list[Any] = []

    def report(done, total, note=""):
      if not bars:
        bars.append(stack.enter_context(experiment.progress(
            name, total, unit)))
      if note:
        bars[0].set_postfix_str(note, refresh=False)
      bars[0].update(done - bars[0].n)

    yield report


@contextlib.contextmanager
def of_stages(
    units: Mapping[str, str] | None = None, *, name: str = ""
) -> Iterator[Callable[[str, int, int], None]]:
  """One bar after the other, each for a stage.

  Args:
    units: What is counted, by stage; images where a stage is not named.
    name: What stands in front of the stages' names.

  Yields:
    What a library function takes as `progress`: called with a stage, and the
    numbers of its units done and in all.
  """
  with contextlib.ExitStack() as stack:
    current: str | None = None
    bar: Any = None

    def report(stage, done, total):
      nonlocal current, bar
      if stage != current:
        stack.close()
        current, bar = stage, stack.enter_context(experiment.progress(
            f"{name}{stage}", total, (units or {}).get(stage, "image"),
            # Of files that are known already there is nothing to see.
            delay=3 if stage.endswith("files") else 0))
      bar.update(done - bar.n)

    yield report
