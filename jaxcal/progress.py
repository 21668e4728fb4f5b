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
    name: str, unit: str = "image", *, delay: float = 0
) -> Iterator[Callable[..., None]]:
  """One bar, drawn from the first call on: of quick work there is nothing.

  Args:
    name: Text in front of the bar.
    unit: Name of a unit.
    delay: Seconds before the bar is shown, for work that is quick as a rule.

  Yields:
    What a library function calls with the numbers of units done and in all, and
    perhaps with a loss, which stands behind the bar unless it is NaN.
  """
  with contextlib.ExitStack() as stack:
    drawn: Any = None

    def report(done: int, total: int, loss: float = math.nan) -> None:
      nonlocal drawn
      if drawn is None:
        drawn = stack.enter_context(bar(name, total, unit, delay=delay))
      if not math.isnan(loss):
        drawn.set_postfix_str(f"loss={loss:.3f}", refresh=False)
      drawn.update(done - drawn.n)

    yield report


@contextlib.contextmanager
def of_parts(
    name: str, sizes: Sequence[int], unit: str = "image"
) -> Iterator[list[Callable[[int, int], None]]]:
  """One bar over parts that each tell how much of themselves is done.

  Args:
    name: Text in front of the bar.
    sizes: Number of units of each part.
    unit: Name of a unit.

  Yields:
    For each part, a function of its progress: (done, total), in units of its
    own.
  """
  with bar(name, sum(sizes), unit) as drawn:

    def of_part(number):
      before = sum(sizes[:number])
      return lambda done, total: drawn.update(
          before + sizes[number] * done // total - drawn.n)

    yield [of_part(number) for number in range(len(sizes))]


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
