"""The one loop: a method, an optimiser and arrays become tuned parameters."""

from collections.abc import Callable
from typing import Any

import jax

from jaxcal.tuning import method as method_lib


def value_and_gradient(method: method_lib.Method) -> Callable[..., Any]:
  """(parameters, prompts, batch) -> ((loss, its parts), direction).

  The direction is the loss's gradient, unless the method has its own.
  """
  return method.gradient or jax.value_and_grad(method.loss, has_aux=True)
