"""Rows over virtual devices: nothing mixes, nothing changes places."""

import functools
import types
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from jaxcal import sharding


def _rows(n=8):
  return np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)


def _mesh(num_devices, reverse=False):
  devices = jax.devices()[:num_devices]
  return sharding.data_mesh(devices[::-1] if reverse else devices)


def _rows_by_device(array):
  return {shard.device: np.asarray(shard.data)
          for shard in array.addressable_shards}


class MeshTest(parameterized.TestCase):

  def test_all_devices_unless_told(self):
    self.assertGreaterEqual(jax.device_count(), 4)
    self.assertEqual(
        list(sharding.data_mesh().devices.flat), jax.devices())
    self.assertEqual(
        list(_mesh(2, reverse=True).devices.flat), jax.devices()[1::-1])

  @parameterized.parameters((0, [0, 1, 4, 5]), (1, [2, 3]), (2, [6, 7]))
  def test_rows_of_each_process(self, process, expected):
    devices = [types.SimpleNamespace(process_index=i) for i in (0, 1, 0, 2)]
    mesh = mock.Mock(spec=jax.sharding.Mesh, devices=np.array(devices))
    with mock.patch.object(jax, "process_index", return_value=process):
      np.testing.assert_array_equal(sharding.local_rows(mesh, 2), expected)

  def test_one_process_has_all_rows_and_devices(self):
    mesh = _mesh(4)
    np.testing.assert_array_equal(sharding.local_rows(mesh, 3), np.arange(12))
    self.assertEqual(sharding.local_mesh(mesh), mesh)

  def test_a_process_without_devices(self):
    with mock.patch.object(jax, "process_index", return_value=1):
      with self.assertRaisesRegex(
          ValueError, "process 1 has no device among .*id=0"):
        sharding.local_mesh(_mesh(2))

  def test_nothing_to_wait_for_with_one_process(self):
    sharding.barrier("alone")


class SplitTest(parameterized.TestCase):

  @parameterized.product(num_devices=(1, 2, 4), reverse=(False, True))
  def test_rows_in_the_order_of_the_mesh(self, num_devices, reverse):
    mesh, rows = _mesh(num_devices, reverse), _rows()
    array = sharding.split(rows, mesh)
    self.assertEqual(array.shape, rows.shape)
    np.testing.assert_array_equal(array, rows)
    shares = _rows_by_device(array)
    for device, share in zip(mesh.devices.flat, np.split(rows, num_devices)):
      np.testing.assert_array_equal(shares[device], share)
    np.testing.assert_array_equal(sharding.gather_local(array), rows)

  @parameterized.product(num_devices=(1, 2, 4), reverse=(False, True))
  def test_what_is_split_already_stays_where_it_is(self, num_devices, reverse):
    mesh, rows = _mesh(num_devices, reverse), _rows()
    doubled = sharding.over_rows(lambda _, x: 2 * x, mesh)(
        (), sharding.split(rows, mesh))
    with mock.patch.object(jax, "make_array_from_process_local_data",
                           side_effect=AssertionError("through the host")):
      again = sharding.split(doubled, mesh)
    pointers = lambda x: [shard.data.unsafe_buffer_pointer()
                          for shard in x.addressable_shards]
    self.assertEqual(pointers(again), pointers(doubled))
    np.testing.assert_array_equal(again, 2 * rows)

  def test_trees_and_arrays_of_one_device(self):
    mesh, rows = _mesh(4), _rows(4)
    tree = sharding.split({"host": rows, "one": jnp.asarray(rows[:, 0])}, mesh)
    self.assertLen(tree["one"].sharding.device_set, 4)
    gathered = sharding.gather_local(tree)
    self.assertIsInstance(gathered["one"], np.ndarray)
    np.testing.assert_array_equal(gathered["host"], rows)
    np.testing.assert_array_equal(gathered["one"], rows[:, 0])

  def test_what_lies_otherwise_is_put_in_order(self):
    mesh, rows = _mesh(4), _rows()
    for array in (sharding.split(rows, _mesh(4, reverse=True)),
                  sharding.split(rows, _mesh(2)),
                  sharding.replicate(rows, mesh)):
      again = sharding.split(array, mesh)
      for device, share in zip(mesh.devices.flat, np.split(rows, 4)):
        np.testing.assert_array_equal(_rows_by_device(again)[device], share)

  def test_rows_that_do_not_go_round(self):
    with self.assertRaisesRegex(ValueError, "6.*4|4.*6"):
      sharding.split(_rows(6), _mesh(4))

  def test_replicate_is_whole_everywhere(self):
    rows = _rows()
    tree = sharding.replicate({"a": rows, "b": 2.0}, _mesh(4))
    shares = _rows_by_device(tree["a"])
    self.assertLen(shares, 4)
    for share in shares.values():
      np.testing.assert_array_equal(share, rows)
    self.assertEqual(tree["b"], 2)


class OverRowsTest(parameterized.TestCase):

  @parameterized.parameters(1, 2, 4)
  def test_a_gradient_by_what_is_shared_stays_with_its_row(self, num_devices):
    mesh, rows = _mesh(num_devices), _rows()
    shared = np.array([0.5, -1.0, 2.0], np.float32)
    # The gradient of (s . x)^2 by s is 2 (s . x) x, for each row alone.
    expected = 2 * (rows @ shared)[:, None] * rows
    gradients = sharding.over_rows(
        lambda s, x: jax.vmap(jax.grad(
            lambda s, x: (s @ x)**2), (None, 0))(s, x), mesh)
    array = gradients(
        sharding.replicate(shared, mesh), sharding.split(rows, mesh))
    self.assertLen(array.sharding.device_set, num_devices)
    np.testing.assert_allclose(
        sharding.gather_local(array), expected, rtol=1e-5)

  def test_each_device_sees_its_rows_alone(self):
    mesh, rows = _mesh(4), _rows()
    centre = sharding.over_rows(
        lambda _, x: {"centred": x - x.mean(0, keepdims=True)}, mesh)
    pairs = rows.reshape(4, 2, 3)
    np.testing.assert_allclose(
        centre((), sharding.split(rows, mesh))["centred"],
        (pairs - pairs.mean(1, keepdims=True)).reshape(8, 3), atol=1e-6)

  def test_static_parts_of_the_shared_tree(self):
    mesh = _mesh(2)
    times = jax.tree_util.Partial(functools.partial(jnp.multiply, 3))
    run = sharding.over_rows(lambda shared, x: shared[0](x) + shared[1], mesh)
    shared = sharding.replicate((times, jnp.float32(1)), mesh)
    np.testing.assert_array_equal(
        run(shared, sharding.split(np.arange(4.), mesh)), [1, 4, 7, 10])

  def test_an_output_without_rows(self):
    mesh = _mesh(2)
    total = sharding.over_rows(lambda _, x: x.sum(), mesh)
    with self.assertRaisesRegex(ValueError, "rank"):
      total((), sharding.split(_rows(), mesh))


class FirstProcessTest(absltest.TestCase):

  def test_the_first_one_works_and_fails_with_its_own_error(self):
    done = []
    sharding.first_does("write", lambda: done.append(1))
    self.assertEqual(done, [1])
    with self.assertRaisesRegex(FileNotFoundError, "mine"):
      sharding.first_does("write", mock.Mock(
          side_effect=FileNotFoundError("mine")))

  def test_another_one_does_nothing_and_fails_with_the_first(self):
    work = mock.Mock()
    with mock.patch.object(jax, "process_index", lambda: 1):
      sharding.first_does("write it", work)
      with mock.patch.object(sharding, "any_process", lambda value: True):
        with self.assertRaisesRegex(ValueError, "process 0 could not write it"):
          sharding.first_does("write it", work)
    work.assert_not_called()


def _process(number, count):
  """As if this were one of several processes."""
  return mock.patch.multiple(
      jax, process_count=lambda: count, process_index=lambda: number)


class SharedOutTest(absltest.TestCase):

  def _shares(self, num_rows, size, count):
    rows, found = 10 * np.arange(num_rows), []
    for number in range(count):
      with (_process(number, count),
            mock.patch.object(sharding, "barrier") as barrier,
            sharding.shared_out(rows, size) as own):
        found.append(own.tolist())
        barrier.assert_called_once()
    return found

  def test_whole_batches_of_each_process(self):
    self.assertEqual(self._shares(7, 2, 2), [[0, 10, 20, 30], [40, 50, 60]])
    self.assertEqual(self._shares(3, 2, 4), [[0, 10], [20], [], []])
    self.assertEqual(self._shares(0, 2, 2), [[], []])

  def test_all_rows_where_nothing_is_shared(self):
    rows = np.arange(5)
    with sharding.shared_out(rows, 2) as own:
      self.assertIs(own, rows)
    with _process(1, 2), sharding.shared_out(rows, 2, together=False) as own:
      self.assertIs(own, rows)


if __name__ == "__main__":
  absltest.main()
