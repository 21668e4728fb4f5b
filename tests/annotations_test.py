"""A false annotation fails the test that comes upon it."""

import ast
from collections.abc import Callable, Mapping
import pathlib
from typing import Any
import unittest

from absl.testing import absltest
from beartype import roar
import jax.numpy as jnp
import jaxtyping
import pytest

from jaxcal import memory
from jaxcal.adapt.prompt import engine
from jaxcal.losses import cosines
from jaxcal.losses import entropy
from jaxcal.typing import Array
from jaxcal.typing import Float
from jaxcal.typing import Number
from tests import annotations

_ROOT = pathlib.Path(__file__).parents[1] / "jaxcal"


def _public(body):
  """Functions, and methods but for those of Flax's modules."""
  for node in body:
    if not isinstance(node, (ast.ClassDef, ast.FunctionDef)) or (
        node.name.startswith("_")):
      continue
    if isinstance(node, ast.FunctionDef):
      yield node
    elif "nn.Module" not in map(ast.unparse, node.bases):
      yield from _public(node.body)


@unittest.skipIf(jaxtyping.config.jaxtyping_disable, "JAXTYPING_DISABLE is set")
class AnnotationsTest(absltest.TestCase):

  def _refused(self, function, *args):
    try:
      function(*args)
    except roar.BeartypeCallHintViolation as error:
      return str(error)
    return ""

  def test_shapes_dtypes_and_axes_of_one_name(self):
    ones = jnp.ones((2, 3))
    self.assertEmpty(self._refused(entropy.marginal_entropy, ones))
    for wrong in (jnp.ones(3), jnp.ones((2, 3), int), [[1., 2.]]):
      self.assertRegex(
          self._refused(entropy.marginal_entropy, wrong), "logits=")
    unit = ones / jnp.linalg.norm(ones, axis=1, keepdims=True)
    self.assertRegex(
        self._refused(cosines.paired_cosines, unit, unit[:1]), "second=")

  def test_functions_without_arrays(self):
    with pytest.raises(roar.BeartypeException, match="budget='much'"):
      memory.shares("much")
    with self.assertRaises(TypeError) as reached:  # the function's own
      memory.shares("much")
    self.assertNotIsInstance(reached.exception, roar.BeartypeException)
    for bare in (int, Callable[[int], str], Mapping[str, int | None], Any):
      self.assertFalse(self._has_shapes(bare))
    for array in (Float[Array, ""], Number, engine.LossOfViews,
                  jaxtyping.PyTree[Float[Array, "n"]],
                  Mapping[str, tuple[int, Float[Array, "k"] | None]]):
      self.assertTrue(self._has_shapes(array))

  def _has_shapes(self, annotation):
    return any(map(annotations._is_of_jaxtyping,
                   annotations._parts([annotation])))

  def test_functions_are_reached_by_what_they_are_to_refuse(self):
    with self.assertRaisesRegex(ValueError, "logits must be .views, classes."):
      entropy.marginal_entropy(jnp.ones(3))
    self.assertNotEmpty(
        self._refused(entropy.marginal_entropy, jnp.ones(3)))  # on again

  @pytest.mark.slow
  def test_public_functions_of_the_library_name_all_types(self):
    lacking = []
    for path in sorted(set(_ROOT.rglob("*.py")) -
                       set(_ROOT.glob("cli/*.py"))):
      for function in _public(ast.parse(path.read_text("utf-8")).body):
        given = function.args
        types = [function.returns] + [
            one.annotation
            for one in given.posonlyargs + given.args + given.kwonlyargs
            if one.arg not in ("self", "cls")]
        if None in types:
          lacking.append(f"{path.relative_to(_ROOT)}: {function.name}")
    self.assertEmpty(lacking)


if __name__ == "__main__":
  absltest.main()
