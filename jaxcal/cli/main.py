"""The `jaxcal` command: picks the sub-command and words its errors."""

from collections.abc import Callable, Sequence
import gc
import importlib
import os
import sys
import traceback
import types
from typing import NamedTuple, NoReturn

from absl import flags

import jaxcal
from jaxcal import compilation_cache
from jaxcal import config_file
from jaxcal import printing
from jaxcal import spelling
from jaxcal.cli import config_files
from jaxcal.cli import interrupt
from jaxcal.cli import output_files
from jaxcal.cli import shared_flags

_DEBUG = flags.DEFINE_bool("debug", False, "show the traceback of an error")
_HELP = ("help", "--help", "-h", "--helpfull", "--helpshort")


class Command(NamedTuple):
  """A sub-command.

  Its module has `main()`, which may return an exit status, and `help_text()` on
  what it writes and takes. It is imported when its command is given: some need
  seconds, and most no flag of another.

  Attributes:
    module: Name of its module in `jaxcal.cli`.
    about: What it does, in a line.
    argument: Name of what stands beside the flags, several where it ends in
      "..."; empty where nothing does.
    has_flags: Whether it takes flags and a config; if not, its code gets all
      arguments as they are.
  """

  module: str
  about: str
  argument: str = ""
  has_flags: bool = True


COMMANDS = {
    "compare": Command(
        "compare",
        "compare finished runs image by image, and what differs between their "
        "settings; no model is needed", "RUN_A RUN_B..."),
    "conformal": Command(
        "conformal",
        "make prediction sets of saved predictions and measure them; no model "
        "is needed", "RUN"),
    "data": Command(
        "data",
        "name image sets, check one on disk, or unpack the archives of one",
        "list|check NAME|prepare NAME..."),
    "diagnose": Command(
        "diagnose",
        "tell how the regularisers of prompt tuning pull, and how hard, at "
        "some classes; no images are needed"),
    "evaluate": Command(
        "evaluate",
        "adapt a model to each image of some sets and measure its calibration"),
    "failure": Command(
        "failure",
        "tell how well confidences know failures and images of no class; no "
        "model is needed", "RUN"),
    "features": Command(
        "features",
        "run the image tower over all views of some sets and store the result"),
    "list": Command(
        "listing",
        "name the methods, image sets, recalibrators or configs there are",
        "KIND", has_flags=False),
    "posterior fit": Command(
        "posterior_fit",
        "fit a Laplace posterior over the last projections to image-text "
        "pairs"),
    "posterior import": Command(
        "posterior_import",
        "read released factors, fit their prior precisions anew", "FOLDER"),
    "posterior select": Command(
        "posterior_select",
        "choose images of a pool to label, tune on them, draw learning curves"),
    "recalibrate": Command(
        "recalibrate",
        "recalibrate saved predictions by labelled images; no model is needed",
        "RUN"),
    "report": Command(
        "report",
        "measure saved predictions anew, or files of other programs; no model "
        "is needed", "RUN...|FILE..."),
    "sweep": Command(
        "sweep",
        "evaluate all combinations of some fields' values, sharing the work"),
    "tune": Command(
        "tune",
        "tune on a few images of some classes, predict these and new ones"),
}


def overview() -> str:
  """What `jaxcal --help` prints."""
  lines = [f"  {name:16s} {command.about}"
           for name, command in COMMANDS.items()]
  return "\n".join([
      "jaxcal: can the confidence of a CLIP-style model be trusted?", "",
      "Usage: jaxcal COMMAND [FLAGS]", "", *lines, "",
      "Examples:", "  jaxcal evaluate --config=quickstart",
      "  jaxcal list methods", "",
      "jaxcal COMMAND --help names every flag and field with its default;",
      "jaxcal --version prints the version."])


def enter() -> NoReturn:
  """Runs `sys.argv` and ends the process, soon after an interrupt."""
  # Programs are traced into many objects and few cycles of them: looking for
  # these as often as Python does takes a fourteenth of a run's time.
  gc.set_threshold(20_000, 10, 10)
  with interrupt.answered(_leave):
    try:
      status = run()
    except Exception:
      traceback.print_exc()
      status = 1  # as Python has it
    sys.stdout.flush()
    sys.stderr.flush()
    _leave(status)
    if status == interrupt.STATUS:
      os._exit(status)  # without waiting for devices
  sys.exit(status)


@printing.forgiving()
def run() -> int:
  """Runs `sys.argv`; returns the exit status.

  It is 0, 2 on an error, 130 on an interrupt, or what the command says: 1 where
  `jaxcal data check` has found something.
  """
  arguments = sys.argv[1:]
  if not arguments or arguments[0] in _HELP:
    print(overview())
    return 0
  if arguments[0] == "--version":
    print(f"jaxcal {jaxcal.__version__}")
    return 0
  # Only its tokenizers are used: no word about PyTorch not being there.
  os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
  grouped = any(name.startswith(f"{arguments[0]} ") for name in COMMANDS)
  words = 2 if grouped else 1
  name, rest = " ".join(arguments[:words]), arguments[words:]
  if grouped and (len(arguments) == 1 or arguments[1] in _HELP):
    print(overview())
    return 0
  if name not in COMMANDS:
    return _fail(f"unknown command {name!r}; "
                 f"{spelling.choices(name, sorted(COMMANDS))}")
  command = COMMANDS[name]
  module = importlib.import_module(f"jaxcal.cli.{command.module}")
  if set(_HELP[1:]) & set(rest):
    usage = " ".join(filter(None, ("jaxcal", name, command.argument)))
    print(f"{usage}: {command.about}.\n\n{module.help_text()}")
    return 0
  if not command.has_flags:
    return _guarded(module.main, rest, debug=False)
  return _run_with_flags(name, command.argument, module, rest)


def _run_with_flags(
    name: str, wanted: str, module: types.ModuleType, rest: Sequence[str]
) -> int:
  try:
    left_over = config_files.parse(rest)
    config_files.refuse_foreign(name, module.FLAGS, module.FIELDS)
  except (config_file.ConfigError, OSError) as error:
    if "--debug" in rest:
      traceback.print_exc()
    return _fail(str(error))
  except (flags.Error, LookupError, TypeError, ValueError) as error:
    return _fail(f"{_message(error)}\n`jaxcal {name} --help` names every "
                 "field with its default.")
  if left_over and not wanted:
    return _fail(f"not a flag: {' '.join(left_over)}; flags look like "
                 "--name=value")
  several = wanted.endswith("...") and len(left_over) > 1
  if len(left_over) != bool(wanted) and not several:
    return _fail(f"expected one {wanted}, as in: jaxcal {name} {wanted} "
                 f"--name=value; got {len(left_over)}")
  if shared_flags.COMPILATION_CACHE.value:
    try:
      compilation_cache.use()
    except compilation_cache.NotPrivate as error:
      print(f"jaxcal: {error}", file=sys.stderr)
  return _guarded(module.main, left_over, debug=_DEBUG.value)


def _guarded(
    main: Callable[..., int | None], arguments: Sequence[str], *, debug: bool
) -> int:
  """Runs a command's code; what goes wrong is said without a traceback."""
  try:
    with output_files.giving_back():
      return main(*arguments) or 0
  except (ValueError, OSError, ImportError) as error:
    if debug:
      traceback.print_exc()
    return _fail(_message(error))
  except RuntimeError as error:
    from jaxcal import peers  # late: it needs JAX
    if not peers.is_loss(error):
      raise
    if debug:
      traceback.print_exc()
    peers.lost(error)
    return 2
  except KeyboardInterrupt:
    print(f"\n{interrupt.MESSAGE}", file=sys.stderr)
    return interrupt.STATUS


def _leave(status: int) -> None:
  """Takes leave of other processes; only where this is one of several."""
  if "jaxcal.peers" in sys.modules:
    from jaxcal import peers
    peers.leave(status, at_once=status == interrupt.STATUS)


def _message(error: Exception) -> str:
  # The str() of a KeyError is the repr of its message.
  return str(error.args[0]) if isinstance(error, KeyError) else str(error)


def _fail(message: str) -> int:
  print(f"jaxcal: {message}", file=sys.stderr)
  return 2
