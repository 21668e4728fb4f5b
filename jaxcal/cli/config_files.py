"""--config, and its fields as flags: parsed, or refused in words."""

from collections.abc import Sequence
import pathlib
import re
import sys
from typing import Any

from absl import flags
from ml_collections import config_flags
from ml_collections.config_flags import tuple_parser

from jaxcal import config as config_lib
from jaxcal import config_file
from jaxcal import spelling


def parse(arguments: Sequence[str]) -> list[str]:
  """Parses the flags; returns the arguments that are none.

  Args:
    arguments: The command line without the program; --config may stand anywhere
      in it, and the last one counts.

  Raises:
    flags.Error: A value that a flag cannot have.
    ValueError: A field or a flag that does not exist; says what may be meant.
    FileNotFoundError, ConfigError: See `config_file.load`.
  """
  expanded = flags.FLAGS.read_flags_from_files(
      list(arguments), force_gnu=False)
  for argument in expanded:
    field = re.match(r"--?(?:no)?(config\.[^=]*)", argument)
    if field is not None:
      config_file.check_field(field[1])
  _argv[:] = [sys.argv[0], *_config_first(expanded)]
  try:
    return flags.FLAGS(_argv)[1:]
  except flags.UnrecognizedFlagError as error:
    question = spelling.question(
        [f"--{name}" for name in spelling.near(error.flagname, flags.FLAGS)])
    raise ValueError("; ".join(filter(
        None, (f"no flag --{error.flagname}", question)))) from error


def chosen() -> str:
  """The stem of the config file that was parsed, or `config_file.DEFAULTS`."""
  return pathlib.Path(
      config_flags.get_config_filename(flags.FLAGS["config"])).stem


def overrides() -> dict[str, Any]:
  """The fields that were given one by one, by dotted name, and their values."""
  return config_flags.get_override_values(flags.FLAGS["config"])


def refuse_foreign(
    command: str, flag_names: Sequence[str], field_names: Sequence[str]
) -> None:
  """Refuses flags and fields on the command line that have no effect.

  Fields of a config file may be those of several commands.

  Raises:
    ValueError: Names the first one.
  """
  own = {flag.name for module, defined in (
      flags.FLAGS.flags_by_module_dict().items())
         if module.startswith("jaxcal.") for flag in defined}
  for name in sorted(own.difference(flag_names)):
    # `parse` adds a config where none is given.
    if flags.FLAGS[name].present and (
        (name, config_flags.get_config_filename(flags.FLAGS["config"])) !=
        ("config", config_file.DEFAULTS)):
      raise ValueError(f"--{name} has no effect on `jaxcal {command}`")
  for name in overrides():
    if f"config.{name}" not in field_names:
      raise ValueError(f"--config.{name} has no effect on `jaxcal {command}`")


def _config_first(arguments: Sequence[str]) -> list[str]:
  """--config=NAME in front, since ml_collections reads fields as it goes."""
  config, others = f"--config={config_file.DEFAULTS}", []
  rest = iter(arguments)
  for argument in rest:
    name, equals, value = argument.lstrip("-").partition("=")
    if argument == "--":
      others += [argument, *rest]
    elif argument.startswith("-") and name == "config":
      config = f"--config={value if equals else next(rest, '')}"
    else:
      others.append(argument)
  return [config, *others]


class _Number(flags.ArgumentParser):
  """A number, or none, which `config.validate` refuses where it cannot be."""

  def __init__(self, kind: type):
    super().__init__()
    self._kind = kind

  def parse(self, argument: Any) -> Any:
    """What a text says; what a config has already is left as it is."""
    if not isinstance(argument, str):
      return argument
    text = argument.strip()
    return None if text in config_lib.NONE else config_lib.parse(
        text, self._kind)

  def flag_type(self) -> str:
    return self._kind.__name__


class _Truth(flags.BooleanParser):
  """True, false, or none, which `config.validate` refuses elsewhere."""

  def parse(self, argument: Any) -> Any:
    """What a text says; what a config has already is left as it is."""
    if argument is None or argument in config_lib.NONE:
      return None
    try:
      return super().parse(argument)
    except ValueError as error:
      raise ValueError(f"{argument!r} is not true or false") from error


class _Names(tuple_parser.TupleParser):
  """A text with names, which `config.check` takes apart.

  As it is: to ml_collections it would be a literal of Python, in which no name
  could have a space.
  """

  def parse(self, argument: Any) -> tuple[str, ...]:
    """The text alone, or the names that a config has already."""
    return (argument,) if isinstance(argument, str) else tuple(argument)


config_flags.register_flag_parser_for_type(int, _Number(int))
config_flags.register_flag_parser_for_type(float, _Number(float))
config_flags.register_flag_parser_for_type(bool, _Truth())
config_flags.register_flag_parser_for_type(tuple, _Names())
# ml_collections looks for overridden fields in a command line of its own, not
# in the one that is parsed: `sys.argv`, or this.
_argv: list[str] = []
CONFIG = config_flags.DEFINE_config_dataclass(
    "config", config_lib.ExperimentConfig(),
    "a shipped config by name, see `jaxcal list configs`, or a Python file "
    "with get_config(); the defaults of all fields if absent",
    sys_argv=_argv, parse_fn=config_file.load)
