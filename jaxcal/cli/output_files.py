"""The output folder: the command's until it ends, and cleared on request."""

from collections.abc import Callable, Iterator
import contextlib
import pathlib
import sys

from jaxcal.cli import shared_flags
from jaxcal.storage import lock
from jaxcal.storage import output_folder

_Remove = Callable[[pathlib.Path], list[str]]

_TAKEN = contextlib.ExitStack()  # folders kept from others, see `take`


@contextlib.contextmanager
def giving_back() -> Iterator[None]:
  """Gives back at its end what `take` took in it, however it ends."""
  with _TAKEN:
    yield


def of_run(run: pathlib.Path) -> pathlib.Path:
  """Where to write what is made of a run: --output, or the run itself.

  Raises:
    ValueError: It is the folder of another run.
  """
  if shared_flags.OUTPUT.value is None:
    return run
  output = pathlib.Path(shared_flags.OUTPUT.value)
  if (output / "run.json").exists() and output.resolve() != run.resolve():
    raise ValueError(f"{output} holds another run; give another --output")
  return output


def take(folder: pathlib.Path, remove: _Remove | None = None) -> None:
  """`output_folder.taken` until the command ends, saying from whom.

  Args:
    folder: The folder.
    remove: Function that makes room in it, given --overwrite; returns what it
      keeps.
  """
  before = _TAKEN.enter_context(output_folder.taken(folder))
  if before is not None:
    print(f"jaxcal: {folder} is taken over from a run that ended without "
          f"giving it back: {lock.describe(before)}", file=sys.stderr)
  if remove is not None and shared_flags.OVERWRITE.value:
    clear(folder, remove)


def clear(
    folder: pathlib.Path, remove: _Remove = output_folder.remove_written
) -> None:
  """Removes what runs wrote to a folder, and says what was kept."""
  kept = remove(folder)
  if kept:
    print(f"jaxcal: kept in {folder}, not written by a run of this kind: "
          f"{', '.join(kept)}", file=sys.stderr)
