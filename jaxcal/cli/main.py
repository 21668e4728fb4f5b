"""The `jaxcal` command: picks the sub-command and words its errors."""

from collections.abc import Callable
import os
import sys
import traceback
from typing import NamedTuple

from absl import flags

from jaxcal.cli import evaluate
from jaxcal.cli import features
from jaxcal.cli import posterior_fit
from jaxcal.cli import posterior_import
from jaxcal.cli import posterior_select
from jaxcal.cli import recalibrate
from jaxcal.cli import sweep
from jaxcal.cli import tune

_DEBUG = flags.DEFINE_bool("debug", False, "show the traceback of an error")


class Command(NamedTuple):
  """A sub-command: what it does in a line, its help and its code."""

  about: str
  help_text: Callable[[], str]
  main: Callable[..., None]
  argument: str = ""  # what stands beside the flags, if anything does


COMMANDS = {
    "evaluate": Command(evaluate.ABOUT, evaluate.help_text, evaluate.main),
    "features": Command(features.ABOUT, features.help_text, features.main),
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
      "Example:", f"  {evaluate.EXAMPLE}", "",
      "jaxcal COMMAND --help names every flag and field with its default."])


def run() -> int:
  """Runs `sys.argv`; returns the exit status (0, or 2 on an error)."""
  program, *arguments = sys.argv
  if not arguments or arguments[0] in ("--help", "-h", "help"):
    print(overview())
    return 0
  # Only its tokenizers are used: no word about PyTorch not being there.
  os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
  grouped = any(name.startswith(f"{arguments[0]} ") for name in COMMANDS)
  words = 2 if grouped else 1
  name, rest = " ".join(arguments[:words]), arguments[words:]
  if grouped and arguments[1:2] in ([], ["--help"], ["-h"], ["help"]):
    print(overview())
    return 0
  if name not in COMMANDS:
    return _fail(f"unknown command {name!r}; choose from: "
                 f"{', '.join(sorted(COMMANDS))}.")
  if {"--help", "-h", "--helpfull", "--helpshort"} & set(rest):
    print(COMMANDS[name].help_text())
    return 0
  try:
    left_over = flags.FLAGS([program, *rest])[1:]
  except (flags.Error, KeyError, TypeError) as error:
    return _fail(f"{_message(error)}\n`jaxcal {name} --help` names every "
                 "field with its default.")
  except OSError as error:  # of a config file that is looked at for a field
    return _fail(_cause(error))
  wanted = COMMANDS[name].argument
  if left_over and not wanted:
    return _fail(f"not a flag: {' '.join(left_over)}; flags look like "
                 "--name=value")
  if len(left_over) != bool(wanted):
    return _fail(f"expected one {wanted}, as in: jaxcal {name} {wanted} "
                 f"--name=value; got {len(left_over)}")
  try:
    COMMANDS[name].main(*left_over)
  except (ValueError, OSError, ImportError) as error:
    if _DEBUG.value:
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


def _cause(error):
  """Without what ml_collections adds: the innermost error, the cause."""
  while error.__cause__ is not None:
    error = error.__cause__
  return str(error).strip()


def _fail(message):
  print(f"jaxcal: {message}", file=sys.stderr)
  return 2
