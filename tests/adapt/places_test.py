"""One place of what a method remembers."""

from absl.testing import absltest
import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.adapt import places


class PlacesTest(absltest.TestCase):

  def test_one_place_alone_is_written(self):
    old = jnp.arange(24.0).reshape(3, 2, 4)
    write = jax.jit(lambda i, j, where: places.write(
        old, (i, j), jnp.full(4, -1.0), where=where))
    for i, j in np.ndindex(3, 2):
      expected = np.array(old)
      expected[i, j] = -1
      np.testing.assert_array_equal(write(i, j, True), expected)
      np.testing.assert_array_equal(write(i, j, False), old)

  def test_a_whole_row_of_truth_values(self):
    old = jnp.zeros((3, 2), bool)
    np.testing.assert_array_equal(
        places.write(old, (jnp.array(1),), jnp.array([True, False])),
        [[0, 0], [1, 0], [0, 0]])

  def test_nothing_is_written_beyond_the_end(self):
    old = jnp.arange(3)
    np.testing.assert_array_equal(
        places.write(old, (jnp.array(3),), jnp.array(9)), old)

  def test_each_of_several_streams_has_its_place(self):
    old = jnp.zeros((2, 3))
    found = jax.vmap(lambda old, i, where: places.write(
        old, (i,), jnp.array(5.0), where=where))(
            old, jnp.array([2, 0]), jnp.array([True, False]))
    np.testing.assert_array_equal(found, [[0, 0, 5], [0, 0, 0]])


if __name__ == "__main__":
  absltest.main()
