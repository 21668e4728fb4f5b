"""Counts and digests of traced programs."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from benchmarks import jaxprs
from benchmarks import programs
from jaxcal import precision
from jaxcal import sharding


def _shape(*sizes, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(sizes, dtype)


def _square(x):
  return x @ x


class FlopTest(parameterized.TestCase):

  def _flop(self, function, *arguments):
    return jaxprs.flop(jaxprs.trace(function, *arguments))

  @parameterized.named_parameters(
      ("one", _square, 1),
      ("jit", jax.jit(_square), 1),
      ("scan", lambda x: lax.scan(
          lambda y, _: (y @ x, None), x, length=5)[0], 5),
      ("map", lambda x: lax.map(lambda row: x @ row, x), 1),
      ("scan_in_scan", lambda x: lax.scan(lambda y, _: (lax.scan(
          lambda z, _: (z @ x, None), y, length=3)[0], None), x, length=5)[0],
       15),
      ("checkpoint", jax.checkpoint(_square), 1),
      ("gradient", jax.grad(lambda x: jnp.sum(x @ x)), 3))
  def test_loops_count_in_full(self, function, times):
    self.assertEqual(self._flop(function, _shape(4, 4)),
                     {"default": times * 2 * 4**3})

  def test_what_is_asked_of_products(self):

    def function(x, half):
      for name in ("highest", "high", "default", "default"):
        with precision.at(name):
          x = x @ x
      return x, half @ half

    one = 2 * 4**3
    self.assertEqual(
        self._flop(function, _shape(4, 4), _shape(4, 4, dtype=jnp.bfloat16)),
        {"highest": one, "high": one, "default": 2 * one, "bfloat16": one})

  def test_convolution(self):
    convolve = functools.partial(
        lax.conv_general_dilated, window_strides=(2, 2), padding="VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"))
    self.assertEqual(
        self._flop(convolve, _shape(2, 7, 7, 3), _shape(3, 3, 3, 5)),
        {"default": 2 * (2 * 3 * 3 * 5) * (3 * 3 * 3)})

  def test_integers_do_not_count(self):
    self.assertEqual(self._flop(_square, _shape(4, 4, dtype=jnp.int32)), {})

  def test_of_one_device(self):
    program = sharding.over_rows(
        lambda kernel, rows: rows @ kernel,
        sharding.data_mesh(jax.devices()[:4]))
    self.assertEqual(self._flop(program, _shape(3, 3), _shape(8, 3)),
                     {"highest": 2 * 2 * 3 * 3})


class DigestTest(absltest.TestCase):

  def _digest(self, function, *arguments):
    return jaxprs.digest(jaxprs.trace(function, *arguments))

  def test_names_say_nothing(self):

    def other(renamed):
      return renamed @ renamed

    self.assertEqual(self._digest(jax.jit(_square), _shape(4, 4)),
                     self._digest(jax.jit(other), _shape(4, 4)))

  def test_devices_say_nothing_but_their_number(self):
    over = lambda mesh: jax.jit(jax.shard_map(
        lambda rows: 2 * rows, mesh=mesh, in_specs=PartitionSpec("data"),
        out_specs=PartitionSpec("data")))
    found = [self._digest(over(mesh), _shape(8, 3)) for mesh in (
        programs.abstract_mesh(4), sharding.data_mesh(jax.devices()[:4]),
        programs.abstract_mesh(2))]
    self.assertEqual(found[0], found[1])
    self.assertNotEqual(found[0], found[2])

  def test_everything_else_does(self):
    shape = _shape(4, 4)
    changed = [
        (_square, shape), (precision.highest(_square), shape),
        (lambda x: x @ x.T, shape), (lambda x: 2 * x @ x, shape),
        (lambda x: 3 * x @ x, shape), (_square, _shape(5, 5)),
        (_square, _shape(4, 4, dtype=jnp.bfloat16)),
        (lambda x: x @ jnp.eye(4), shape),
        (lambda x: lax.fori_loop(0, 3, lambda _, y: y @ x, x), shape),
        (lambda x: lax.fori_loop(0, 4, lambda _, y: y @ x, x), shape),
        (lambda x: (x, x @ x), shape), (lambda x: (x @ x, x), shape)]
    self.assertLen({self._digest(*one) for one in changed}, len(changed))


if __name__ == "__main__":
  absltest.main()
