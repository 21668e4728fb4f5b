"""Progress bars for what takes long, drawn by the first process alone.

Library functions draw none, but take a function that says how far they are:

  with progress.reported("training", "epoch") as report:
    fit.fit(method, ..., on_epoch=report)
  with progress.of_stages() as report:
    posterior.fit.fit(model, pairs, folder, progress=report)
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import math
import sys
from typing import Any, TypeVar

import jax
import tqdm

# tqdm's own, but for the number of units.
_FORMAT = ("{l_bar}{bar}| {whole}/{total_fmt} [{elapsed}<{remaining}, "
           "{rate_fmt}{postfix}]")
_T = TypeVar("_T")


class Report:
  """What a library function calls to say how far it is.

  Units that are half done count half. The bar never goes back.
  """

  def __init__(
      self, drawn: Callable[[int], tqdm.tqdm], *, before: int = 0,
      size: int | None = None):
    """A report of a bar, or of a part of one.

    Args:
      drawn: Function from the number of units in all to the bar.
      before: Units of the bar before the part.
      size: Units of the part; as many as are reported if None.
    """
    self._drawn, self._before, self._size = drawn, before, size
    self._told: set[str] = set()

  def __call__(self, done: float, total: int, loss: float = math.nan) -> None:
    """Moves the bar.

    Args:
      done: Units done.
      total: Units in all.
      loss: Loss that stands behind the bar, unless it is NaN.
    """
    drawn = self._drawn(total)
    if not math.isnan(loss):
      drawn.set_postfix_str(f"loss={loss:.3f}", refresh=False)
    size = total if self._size is None else self._size
    place = self._before + size * done / max(total, 1)
    first = not drawn.n and place > 0
    drawn.update(max(place - drawn.n, 0))
    if first:  # with it comes the first estimate, at once in a log file, too
      drawn.refresh()

  def at(self, what: str, done: float, total: int) -> None:
    """Moves the bar, and says behind it what is being done."""
    # What is new comes at once, in a log file, too.
    self._drawn(total).set_postfix_str(what, refresh=what not in self._told)
    self._told.add(what)
    self(done, total)


class _Bar(tqdm.tqdm):
  """A bar that shows whole units, also where some are half done."""

  @property
  def format_dict(self):
    return super().format_dict | {"whole": int(self.n), "bar_format": _FORMAT}


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
  with _Bar(total=total, desc=name, unit=unit, mininterval=interval,
            disable=bool(jax.process_index()), delay=delay) as drawn:
    yield drawn


def each(name: str, items: Sequence[_T], unit: str) -> Iterator[_T]:
  """The items one by one, beside a bar of those that are done."""
  with bar(name, len(items), unit) as drawn:
    for item in items:
      yield item
      drawn.update()


@contextlib.contextmanager
def reported(
    name: str, unit: str = "image", *, delay: float = 0
) -> Iterator[Report]:
  """One bar, drawn from the first call on: of quick work there is nothing.

  Args:
    name: Text in front of the bar.
    unit: Name of a unit.
    delay: Seconds before the bar is shown, for work that is quick as a rule.
  """
  with contextlib.ExitStack() as stack:

    current: tqdm.tqdm | None = None

    def drawn(total):
      nonlocal current
      if current is None:
        current = stack.enter_context(bar(name, total, unit, delay=delay))
      return current

    yield Report(drawn)


@contextlib.contextmanager
def of_parts(
    name: str, sizes: Sequence[int], unit: str = "image"
) -> Iterator[list[Report]]:
  """One bar over parts that each tell how much of themselves is done.

  Args:
    name: Text in front of the bar.
    sizes: Number of units of each part.
    unit: Name of a unit.

  Yields:
    What takes the progress of each part, in units of its own.
  """
  with bar(name, sum(sizes), unit) as drawn:
    yield [Report(lambda total: drawn, before=sum(sizes[:number]), size=size)
           for number, size in enumerate(sizes)]


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

    def report(stage: str, done: int, total: int) -> None:
      nonlocal current, drawn
      if stage != current:
        stack.close()
        current, drawn = stage, stack.enter_context(bar(
            f"{name}{stage}", total, (units or {}).get(stage, "image"),
            # Of files that are known already there is nothing to see.
            delay=3 if stage.endswith("files") else 0))
      drawn.update(done - drawn.n)

    yield report
