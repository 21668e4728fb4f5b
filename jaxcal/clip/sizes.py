"""Settings of a checkpoint are looked at before anything is built of them."""

from collections.abc import Mapping
import math
from typing import Any

import jax

from jaxcal.typing import PyTree

# Bounds of what is built at all. The largest plain CLIP that is published has
# 48 layers and 2.5 billion parameters.
MAX_LAYERS = 256
MAX_SIZE = 2**20
MAX_PARAMETERS = 2 * 10**10

_LARGEST_EPSILON = 1


def whole(
    value: Any, name: str, *, low: int = 1, high: int = MAX_SIZE) -> int:
  """A whole number out of JSON.

  Args:
    value: Value of the setting.
    name: Name of the setting, for the error.
    low: Smallest value that is accepted.
    high: Largest value that is accepted.

  Raises:
    ValueError: It is none, or out of range.
  """
  if not isinstance(value, int) or isinstance(value, bool) or not (
      low <= value <= high):
    raise ValueError(f"{name} is {value!r}, expected a whole number from {low} "
                     f"to {high}")
  return value


def layers(value: Any, name: str) -> int:
  """A number of layers; arguments and errors as in `whole`."""
  return whole(value, name, high=MAX_LAYERS)


def positive(value: Any, name: str, high: float = math.inf) -> float:
  """A positive number out of JSON, whole or not.

  Args:
    value: Value of the setting.
    name: Name of the setting, for the error.
    high: Largest value that is accepted.

  Raises:
    ValueError: It is no number, not finite, or out of range.
  """
  if not isinstance(value, (int, float)) or isinstance(value, bool) or not (
      0 < value <= high and value < math.inf):
    most = f"of at most {high:g}" if high < math.inf else "that is finite"
    raise ValueError(f"{name} is {value!r}, expected a positive number {most}")
  return value


def epsilon(value: Any, name: str) -> float:
  """What is added to a variance; arguments and errors as in `positive`."""
  return positive(value, name, _LARGEST_EPSILON)


def truth(value: Any, name: str) -> bool:
  """True or false out of JSON.

  Raises:
    ValueError: It is neither.
  """
  if not isinstance(value, bool):
    raise ValueError(f"{name} is {value!r}, expected true or false")
  return value


def section(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
  """An object within an object of JSON.

  Raises:
    ValueError: There is none of that name.
  """
  value = settings.get(name)
  if not isinstance(value, dict):
    raise ValueError(f"{name} is {value!r}, expected an object of JSON")
  return value


def heads(count: Any, name: str, width: int) -> int:
  """A number of attention heads that share a width.

  Raises:
    ValueError: It is none, or does not divide the width.
  """
  if width % whole(count, name):
    raise ValueError(
        f"{name} is {count!r}, but a width of {width} does not split into "
        f"{count} heads")
  return count


def patch(size: Any, name: str, image_size: int) -> int:
  """A side of the patches that an image is cut into, in pixels.

  Raises:
    ValueError: It is none, or larger than the image.
  """
  if whole(size, name) > image_size:
    raise ValueError(f"{name} is {size!r}, but an image of {image_size} pixels "
                     f"does not hold a patch of {size}")
  return size


def token(value: Any, name: str, vocab_size: int) -> int:
  """An id of a token.

  Raises:
    ValueError: It is none of the vocabulary.
  """
  if not isinstance(value, int) or isinstance(value, bool) or not (
      0 <= value < vocab_size):
    raise ValueError(f"{name} is {value!r}, expected an id of the {vocab_size} "
                     "tokens")
  return value


def check_parameters(shapes: PyTree) -> None:
  """Refuses models that no memory holds, before anything is allocated.

  Args:
    shapes: Tree of the parameters' shapes, as `jax.eval_shape` gives it.

  Raises:
    ValueError: More than `MAX_PARAMETERS` parameters.
  """
  count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
  if count > MAX_PARAMETERS:
    raise ValueError(
        f"its settings describe {count:,} parameters; models of more than "
        f"{MAX_PARAMETERS:,} are not built")


def three(
    values: Any, name: str, *, above: float = -math.inf
) -> tuple[float, float, float]:
  """Three numbers, one for each channel.

  Args:
    values: Value of the setting.
    name: Name of the setting, for the error.
    above: Number that each must exceed.

  Raises:
    ValueError: They are not three finite numbers, or one is too small.
  """
  if isinstance(values, (list, tuple)) and len(values) == 3 and all(
      isinstance(x, (int, float)) and not isinstance(x, bool) and
      above < x < math.inf for x in values):
    first, second, third = values
    return first, second, third
  least = "" if above == -math.inf else f" above {above:g}"
  raise ValueError(f"{name} is {values!r}, expected three finite numbers"
                   f"{least}, one for each channel")
