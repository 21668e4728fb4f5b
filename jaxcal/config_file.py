"""A shipped name or the path of a Python file becomes an experiment's config.

  from jaxcal import config_file
  config = config_file.load("quickstart")    # or "mine.py"
"""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import sys
import traceback
import types

import jaxcal
from jaxcal import config as config_lib
from jaxcal import spelling

# What --config is where it is not given; no file.
DEFAULTS = "defaults"
# The field that holds objects.
OWN_METHODS = "config.methods"
# What a config file is called among the modules while it runs.
_MODULE = "jaxcal_config"


class ConfigError(Exception):
  """A config file that cannot be used.

  No ValueError, which absl would take for one of a flag and word anew.
  """


def shipped() -> dict[str, pathlib.Path]:
  """The config files that come with jaxcal, by name.

  An installed package has them inside (see setup.cfg), a checkout beside it.
  """
  package = pathlib.Path(jaxcal.__file__).parent
  places = (package / "configs", package.parent / "configs")
  folder = next(filter(pathlib.Path.is_dir, places), places[0])
  return {path.stem: path for path in sorted(folder.glob("[!_]*.py"))}


def load(name: str | os.PathLike) -> config_lib.ExperimentConfig:
  """What get_config() of a config file returns.

  Args:
    name: `DEFAULTS`, a path, or the name of a shipped config. A path that
      exists comes first.

  Raises:
    FileNotFoundError: There is no such file; lists the shipped ones.
    ConfigError: The file cannot be run, or it gives something else.
  """
  if name == DEFAULTS:
    return config_lib.ExperimentConfig()
  path = _find(name)
  content = path.read_bytes()
  with _errors_of(path):
    get_config = _run(path, content).get("get_config")
  if get_config is None:
    raise ConfigError(
        f"{path} has no get_config(); expected a function of that name that "
        "returns a jaxcal.config.ExperimentConfig")
  with _errors_of(path):
    config = get_config()
  if not isinstance(config, config_lib.ExperimentConfig):
    raise ConfigError(
        f"get_config() of {path} returned {_kind(config)}, expected a "
        "jaxcal.config.ExperimentConfig: start from ExperimentConfig(), set "
        "its fields, and return it")
  return config


def check_field(name: str) -> None:
  """Refuses the name of a field that no config has.

  Args:
    name: Dotted name, as in "config.data.limit".

  Raises:
    ValueError: There is none that a text could set; says which may be meant.
  """
  known = [field.name for field in config_lib.fields(
      config_lib.ExperimentConfig()) if field.name != OWN_METHODS]
  if name in known:
    return
  if name == OWN_METHODS:
    raise ValueError(
        f"--{name} holds methods of your own, which only a config file sets")
  inside = [f"--{one}" for one in known if one.startswith(f"{name}.")]
  if inside:
    raise ValueError(
        f"no field --{name}, but a section, of {', '.join(inside)}")
  last = name.rpartition(".")[2]
  meant = [one for one in known if one.endswith(f".{last}")]
  question = spelling.question(
      [f"--{one}" for one in meant or spelling.near(name, known)])
  raise ValueError("; ".join(filter(None, (f"no field --{name}", question))))


def _find(name: str | os.PathLike) -> pathlib.Path:
  path = pathlib.Path(os.path.expanduser(name))
  if path.exists() and not path.is_dir():
    return path
  known = shipped()
  if name in known:
    return known[str(name)]
  what = "a folder" if name and path.is_dir() else "no file"
  raise FileNotFoundError(
      f"--config={name} is {what} and none of the shipped configs; expected "
      f"{', '.join((DEFAULTS, *known))}, or the path of a Python file with "
      "get_config()")


def _run(path, content):
  """The names that a file defines; never from stale bytecode."""
  module = types.ModuleType(_MODULE)
  module.__file__ = str(path)
  # Where the classes that it defines are looked for.
  sys.modules[_MODULE] = module
  exec(compile(content, str(path), "exec"), vars(module))
  return vars(module)


@contextlib.contextmanager
def _errors_of(path) -> Iterator[None]:
  """Whatever goes wrong in a config file is told by file and line."""
  try:
    yield
  except SyntaxError as error:  # its own, or one of a file that it imports
    raise ConfigError(f"{_place(error.filename or path, error.lineno)}: "
                      f"{type(error).__name__}: {error.msg}") from error
  except Exception as error:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
             if frame.filename == str(path)]
    raise ConfigError(f"{_place(path, lines[-1] if lines else None)}: "
                      f"{type(error).__name__}: {error}") from error


def _place(path, line):
  return f"{path}, line {line}" if line else str(path)


def _kind(value):
  return "None" if value is None else f"a {type(value).__name__}"
