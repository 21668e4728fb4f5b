"""Structures of dataclasses: told apart by class, and kept by a round trip."""

import dataclasses
import itertools
import pathlib

from absl.testing import absltest
import jax
import numpy as np

from jaxcal import pytrees
from jaxcal.adapt import methods


@pytrees.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Numbers:
  weight: float
  steps: int = dataclasses.field(default=1, metadata={"static": True})
  bound: float | None = None


@pytrees.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Others(_Numbers):
  pass


class RegisterDataclassTest(absltest.TestCase):

  def test_no_other_way_is_taken(self):
    for path in (pathlib.Path(__file__).parents[1] / "jaxcal").rglob("*.py"):
      if path.name != "pytrees.py":
        self.assertNotRegex(
            path.read_text("utf-8"),
            r"tree_util\.register_dataclass|struct\.dataclass", str(path))

  def test_classes_of_the_same_fields_are_told_apart(self):
    structures = [jax.tree.structure(one) for one in (
        _Numbers(1.0), _Others(1.0), _Numbers(1.0, steps=2),
        _Numbers(1.0, bound=2.0))]
    for first, second in itertools.combinations(structures, 2):
      self.assertNotEqual(first, second)
    self.assertEqual(structures[0], jax.tree.structure(_Numbers(5.0)))

  def test_no_two_methods_have_one_structure(self):
    structures = {name: jax.tree.structure(methods.method(name).method())
                  for name in methods.METHODS}
    for first, second in itertools.combinations(structures, 2):
      self.assertNotEqual(structures[first], structures[second],
                          f"{first}, {second}")

  def test_a_program_for_each_class_and_static_value(self):
    traced = []

    @jax.jit
    def weighed(one):
      traced.append((type(one), one.steps))
      return one.weight * one.steps

    for _ in range(2):
      for one in (_Numbers(2.0), _Others(3.0), _Numbers(4.0, steps=5)):
        np.testing.assert_allclose(weighed(one), one.weight * one.steps)
    self.assertEqual(traced, [(_Numbers, 1), (_Others, 1), (_Numbers, 5)])

  def test_round_trip_and_names_of_leaves(self):
    given = _Others(2.0, steps=3, bound=4.0)
    self.assertEqual(jax.tree.map(lambda x: x, given), given)
    paths = jax.tree_util.tree_leaves_with_path(given)
    self.assertEqual([(jax.tree_util.keystr(path), leaf)
                      for path, leaf in paths],
                     [(".weight", 2.0), (".bound", 4.0)])


if __name__ == "__main__":
  absltest.main()
