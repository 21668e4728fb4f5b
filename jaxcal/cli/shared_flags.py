"""Flags of several sub-commands, and how help texts name flags."""

from collections.abc import Callable, Sequence
import os
import sys
from typing import Any

from absl import flags


class _Path(flags.ArgumentParser):
  """A path, of which ~ is the home folder; the shell leaves it in --x=~/y."""

  def parse(self, argument: str) -> str:
    """The path without ~."""
    return os.path.expanduser(argument)


def define_path(
    name: str, default: str | None, about: str) -> flags.FlagHolder:
  """A flag whose value is a path, or may be one."""
  return flags.DEFINE(
      _Path(), name, default, about, serializer=flags.ArgumentSerializer())


OUTPUT = define_path(
    "output", None, "folder to write to; runs/NAME-HASH if absent, with the "
    "name of the config and a hash of its fields")
COMPILATION_CACHE = flags.DEFINE_bool(
    "compilation_cache", True, "keep compiled programs in $XDG_CACHE_HOME or "
    "~/.cache, below jaxcal/programs, so that the next start is faster")
OVERWRITE = flags.DEFINE_bool(
    "overwrite", False, "remove what the output folder holds first")

_SHARE = flags.DEFINE_float(
    "share", None, "share of RUN's own images, in (0, 1), drawn at random, "
    "that are fitted or calibrated to; only the others are measured")
SEED = flags.DEFINE_integer("seed", 0, "seed of that draw")


def command_line() -> list[str]:
  """The words of this command."""
  return ["jaxcal", *sys.argv[1:]]


def share() -> float | None:
  """What --share says; None where it is not given.

  Raises:
    ValueError: It is out of range.
  """
  if _SHARE.value is not None and not 0 < _SHARE.value < 1:
    raise ValueError(f"--share is {_SHARE.value:g}, expected in (0, 1)")
  return _SHARE.value


def flag_help(*names: str) -> list[str]:
  """Lines that name flags and say what they are for."""
  return [f"  --{name}\n      {flags.FLAGS[name].help}" for name in names]


def help_of_run(
    about: str, examples: Sequence[str], own: Sequence[str],
    output: str = "folder to write to; RUN itself if absent",
    others: Sequence[str] = ("compilation_cache", "debug"),
) -> str:
  """What --help prints of a command that works on a finished run.

  Args:
    about: Text on what it does and writes.
    examples: Command lines.
    own: Names of the command's own flags.
    output: Text on --output, in lines.
    others: Names of further flags.
  """
  return "\n".join([
      about, "", "Examples:", *(f"  {example}" for example in examples), "",
      "Flags:", *flag_help(*own), f"  --output\n      {output}",
      *flag_help(*others)])


def check_at_least(least: int, *given: flags.FlagHolder, why: str = "") -> None:
  """Refuses smaller numbers; a flag that is None is left alone."""
  for flag in given:
    if flag.value is not None and flag.value < least:
      raise ValueError(f"--{flag.name} is {flag.value}, expected at least "
                       f"{least}{why}")


def numbers(flag: flags.FlagHolder, kind: Callable[[str], Any]) -> list[Any]:
  """The numbers of a flag that is a list of texts."""
  try:
    return [kind(text) for text in flag.value]
  except ValueError as error:
    raise ValueError(f"--{flag.name}: {error}") from error
