"""What every method must keep to, seen before it runs and while it does.

Whatever breaks the contract of `base` would show late and far from its cause,
or not at all: a distribution that does not sum to one is measured like any
other.
"""

from collections.abc import Mapping, Sequence
import numbers
import traceback
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.adapt import base
from jaxcal.typing import Float

# How far the logarithm of the sum of probabilities may be from zero, and that
# of the class of the highest score below the highest: what half precision
# leaves of both.
_SUM_TOLERANCE = 0.05
_ORDER_TOLERANCE = 1e-2


def check(
    method: base.Numbers, task: base.Task,
    views: Float[Any, "v d"] | base.Seen
) -> base.Output:
  """Refuses a method before it sees an image, by shapes and types alone.

  Args:
    method: Dataclass of the method's numbers.
    task: Task of the images; shapes will do.
    views: Features of an image's views, or what else the method sees of it;
      shapes and dtypes will do.

  Returns:
    The shapes of an output.

  Raises:
    TypeError: Something that is no method.
    ValueError: Functions that cannot be traced, or give something else than
      `base.TestTimeMethod` says.
  """
  if isinstance(method, type) or not hasattr(method, "method"):
    raise TypeError(
        "expected a dataclass of numbers with a method(), such as "
        f"jaxcal.Tda(), got {_kind(method)}")
  functions = _told("method() fails", method.method)
  if not isinstance(functions, base.TestTimeMethod):
    raise TypeError("method() must return what jaxcal.episodic or "
                    f"jaxcal.TestTimeMethod gives, got {_kind(functions)}")
  _check_leaves(functions)
  state = _told("init cannot be traced", base.state_shapes, functions, task)
  returned = _told("step cannot be traced", jax.eval_shape, functions.step,
                   task, state, views)
  if not isinstance(returned, tuple) or len(returned) != 2:
    raise ValueError("step must return a pair, the next state and an Output, "
                     f"got {_kind(returned)}")
  following, output = returned
  _check_output(output, len(task.text_features))
  _check_state(state, following)
  return output


def check_values(output: base.Output, ids: Sequence[str]) -> None:
  """Refuses what a method made of some images if it is no distribution.

  Args:
    output: Arrays of the host with a leading axis of images; log_probs may be
      None where the scores are known to be logits.
    ids: Ids, one per image, for the message.

  Raises:
    ValueError: Scores or log-probabilities that are not finite, probabilities
      that do not sum to one, or whose highest is not that of the scores.
  """
  known = [np.asarray(x, np.float32) for x in (output.scores, output.log_probs)
           if x is not None]
  finite = np.all([np.isfinite(x).all(-1) for x in known], axis=0)
  _refuse(~finite, ids, "are not finite", "A probability of zero has no "
          "logarithm: give it a least value. Or do the weights overflow in "
          "this dtype?")
  if output.log_probs is None:
    return
  scores, log_probs = known
  sums = np.log(np.exp(np.float64(log_probs)).sum(-1))
  _refuse(np.abs(sums) > _SUM_TOLERANCE, ids, "are no logarithms of "
          "probabilities that sum to one", "For scores that are logits, "
          "jaxcal.from_logits gives both.")
  rows = np.arange(len(scores))
  below = log_probs.max(-1) - log_probs[rows, scores.argmax(-1)]
  _refuse(below > _ORDER_TOLERANCE, ids, "are highest for another class than "
          "the scores", "The prediction must be the same by both.")


def _refuse(broken, ids, what, way_out):
  if broken.any():
    raise ValueError(
        f"the logits {what} for {broken.sum()} of {len(broken)} images, the "
        f"first one {ids[int(broken.argmax())]!r}. {way_out}")


def _check_leaves(functions):
  for leaf in jax.tree.leaves(functions):
    if not isinstance(leaf, (numbers.Number, np.ndarray, np.generic,
                             jax.Array)):
      raise ValueError(
          "the leaves of what method() returns must be numbers and arrays, but "
          f"one is {_kind(leaf)}. Register a dataclass of numbers with "
          "jaxcal.register_dataclass, mark what is no number as static, and "
          "wrap functions in jax.tree_util.Partial")


def _told(what, function, *arguments):
  """What a function returns; its errors by file and line."""
  try:
    return function(*arguments)
  except ValueError:
    raise
  except Exception as error:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    raise ValueError(
        f"{what}: {type(error).__name__}: {error} "
        f"({frame.filename}, line {frame.lineno})") from error


def _check_output(output, num_classes):
  if not isinstance(output, base.Output):
    raise ValueError("step must return a jaxcal.Output beside the state, got "
                     f"{_kind(output)}")
  for field, kinds in (("scores", (jnp.floating, jnp.integer)),
                       ("log_probs", (jnp.floating,))):
    _check_array(field, getattr(output, field), (num_classes,), kinds)
  for field in ("info", "evidence"):
    given = getattr(output, field)
    if not isinstance(given, Mapping) or not all(
        isinstance(name, str) and "/" not in name for name in given):
      raise ValueError(f"{field} must be a mapping from names without a slash, "
                       f"got {given}")
  for name, value in output.info.items():
    _check_array(f"info {name!r}", value, (),
                 (jnp.floating, jnp.integer, jnp.bool_))


def _check_array(name, x, shape, kinds):
  if getattr(x, "shape", None) != shape or not any(
      jnp.issubdtype(x.dtype, kind) for kind in kinds):
    types = " or ".join(kind.__name__ for kind in kinds)
    raise ValueError(f"{name} must have shape {shape} and type {types}, got "
                     f"{_kind(x)}")


def _check_state(before, after):
  if jax.tree.structure(before) != jax.tree.structure(  # type: ignore[operator]
      after):
    raise ValueError(
        "step must return a state of the structure that init gives, "
        f"{jax.tree.structure(before)}, got {jax.tree.structure(after)}")
  for (path, old), new in zip(jax.tree_util.tree_leaves_with_path(before),
                              jax.tree.leaves(after)):
    if (old.shape, old.dtype) != (new.shape, new.dtype):
      raise ValueError(
          "step must return a state of the shapes and types that init gives, "
          f"but {jax.tree_util.keystr(path) or 'it'} is {_kind(old)} and "
          f"becomes {_kind(new)}")


def _kind(x: Any) -> str:
  if isinstance(x, type):
    return f"the class {x.__name__} itself"
  if hasattr(x, "shape") and hasattr(x, "dtype"):
    return f"{x.dtype}{list(x.shape)}"
  return "None" if x is None else f"an instance of {type(x).__name__}"
