"""The `jaxcal` command: picks the sub-command and words its errors."""

from collections.abc import Callable
import os
import sys
import traceback
from typing import NamedTuple

from absl import flags

import jaxcal
from jaxcal.cli import config_files
from jaxcal.cli import evaluate
from jaxcal.cli import experiment
from jaxcal.cli import features
from jaxcal.cli import listing
from jaxcal.cli import posterior_fit
from jaxcal.cli import posterior_import
from jaxcal.cli import posterior_select
from jaxcal.cli import printing
from jaxcal.cli import recalibrate
from jaxcal.cli import sweep
from jaxcal.cli import tune

_DEBUG = flags.DEFINE_bool("debug", False, "show the traceback of an error")
_HELP = ("help", "--help", "-h", "--helpfull", "--helpshort")


class Command(NamedTuple):
  """A sub-command.

  Attributes:
    about: What it does, in a line.
    help_text: What its --help prints.
    main: Its code.
    argument: What stands beside the flags; empty where nothing does.
    has_flags: Whether it takes flags and a config; if not, its code gets all
      arguments as they are.
  """

  about: str
  help_text: Callable[[], str]
  main: Callable[..., None]
  argument: str = ""
  has_flags: bool = True


COMMANDS = {
    "evaluate": Command(evaluate.ABOUT, evaluate.help_text, evaluate.main),
    "features": Command(features.ABOUT, features.help_text, features.main),
    "list": Command(
        listing.ABOUT, listing.help_text, listing.main, has_flags=False),
    "posterior fit": Command(
        posterior_fit.ABOUT, posterior_fit.help_text, posterior_fit.main),
    "posterior import": Command(
        posterior_import.ABOUT, posterior_import.help_text,
        posterior_import.main, "FOLDER"),
    "posterior select": Command(
        posterior_select.ABOUT, posterior_select.help_text,
        posterior_select.main),
    "recalibrate": Command(
        recalibrate.ABOUT, recalibrate.help_text, recalibrate.main, "RUN"),
    "sweep": Command(sweep.ABOUT, sweep.help_text, sweep.main),
    "tune": Command(tune.ABOUT, tune.help_text, tune.main),
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


@printing.forgiving()
def run() -> int:
  """Runs `sys.argv`; returns the exit status (0, or 2 on an error)."""
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
    return _fail(f"unknown command {name!r}; choose from: "
                 f"{', '.join(sorted(COMMANDS))}.")
  command = COMMANDS[name]
  if set(_HELP[1:]) & set(rest):
    print(command.help_text())
    return 0
  if not command.has_flags:
    return _guarded(command.main, rest, debug=False)
  return _run_with_flags(name, command, rest)


def _run_with_flags(name, command, rest):
  try:
    left_over = config_files.parse(rest)
  except (config_files.ConfigError, OSError) as error:
    if "--debug" in rest:
      traceback.print_exc()
    return _fail(str(error))
  except (flags.Error, LookupError, TypeError, ValueError) as error:
    return _fail(f"{_message(error)}\n`jaxcal {name} --help` names every "
                 "field with its default.")
  wanted = command.argument
  if left_over and not wanted:
    return _fail(f"not a flag: {' '.join(left_over)}; flags look like "
                 "--name=value")
  if len(left_over) != bool(wanted):
    return _fail(f"expected one {wanted}, as in: jaxcal {name} {wanted} "
                 f"--name=value; got {len(left_over)}")
  return _guarded(command.main, left_over, debug=_DEBUG.value)


def _guarded(main, arguments, *, debug):
  """Runs a command's code; what goes wrong is said without a traceback."""
  try:
    with experiment.giving_back():
      main(*arguments)
  except (ValueError, OSError, ImportError) as error:
    if debug:
      traceback.print_exc()
    return _fail(_message(error))
  except KeyboardInterrupt:
    print("\njaxcal: interrupted; the same command goes on from here.",
          file=sys.stderr)
    return 130
  return 0


def _message(error):
  # The str() of a KeyError is the repr of its message.
  return str(error.args[0]) if isinstance(error, KeyError) else str(error)


def _fail(message):
  print(f"jaxcal: {message}", file=sys.stderr)
  return 2
