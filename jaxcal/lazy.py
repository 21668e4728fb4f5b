"""Names whose modules are imported when they are first used (PEP 562)."""

from collections.abc import Callable, Mapping, Sequence
import importlib
from typing import Any

from jaxcal import spelling

# What a package has in place of `__getattr__` and `__dir__`.
Hooks = tuple[Callable[[str], Any], Callable[[], list[str]]]


def attributes(
    package: str, exports: Mapping[str, tuple[str, str | None]]) -> Hooks:
  """What makes `package.NAME` import the module that holds it.

  Args:
    package: Name of the package, its `__name__`.
    exports: Module of each public name and the attribute there, or None where
      the name stands for the module itself.

  Returns:
    The package's `__getattr__`, which raises AttributeError for other names and
    says what is near, and its `__dir__`, which has the public names, sorted.
  """

  def get(name: str) -> Any:
    if name not in exports:
      raise AttributeError(f"{package} has no {name!r}; {_near(name, exports)}")
    module, attribute = exports[name]
    found = importlib.import_module(module)
    return found if attribute is None else getattr(found, attribute)

  return get, lambda: sorted(exports)


def modules(package: str, names: Sequence[str]) -> Hooks:
  """`attributes` where the public names are the package's own modules.

  Args:
    package: Name of the package, its `__name__`.
    names: The modules in it, usually its `__all__`.
  """
  return attributes(
      package, {name: (f"{package}.{name}", None) for name in names})


def _near(name, names):
  return spelling.question(spelling.near(name, names)) or (
      f"it has: {', '.join(sorted(names))}.")
