"""States of long work come back, or are seen to be damaged or of others."""

import pathlib
from typing import NamedTuple

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.storage import arrays
from jaxcal.storage import atomic
from jaxcal.storage import process
from jaxcal.storage import pytree


class _State(NamedTuple):
  step: int
  moments: dict
  key: jax.Array


def _state(step=0):
  return _State(step, {"a": jnp.full((2, 3), step, jnp.float32),
                       "b": np.arange(3, dtype=np.int32) + step},
                jax.random.key(step))


class PytreeTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.path = pathlib.Path(self.create_tempdir().full_path, "deep", "s.npz")

  def _assert_equal(self, one, other):
    self.assertEqual(jax.tree.structure(one), jax.tree.structure(other))
    np.testing.assert_array_equal(
        jax.random.key_data(one.key), jax.random.key_data(other.key))
    self.assertEqual(one.step, other.step)
    for name, value in other.moments.items():
      np.testing.assert_array_equal(one.moments[name], value)

  @parameterized.parameters((None,), ({"seed": 1},))
  def test_round_trip(self, identity):
    begun = _state()
    self.assertIs(pytree.load(self.path, begun, identity), begun)
    pytree.save(self.path, _state(3), identity)
    self._assert_equal(pytree.load(self.path, begun, identity), _state(3))
    self._assert_equal(pytree.load(self.path, begun), _state(3))
    self.assertLen(list(self.path.parent.iterdir()), 1)

  def test_another_identity(self):
    pytree.save(self.path, _state(), {"seed": 1, "sizes": (2, 3), "name": "ä"})
    same = {"name": "ä", "sizes": [2, 3], "seed": 1}
    pytree.load(self.path, _state(), same)
    with self.assertRaises(ValueError) as caught:
      pytree.load(self.path, _state(), {**same, "seed": 2, "more": None})
    self.assertEqual(str(caught.exception), (
        f"{self.path} is of another run:\n"
        "  more: stored 'nothing', asked None\n  seed: stored 1, asked 2\n"
        "remove it, or write to another folder"))
    self.assertTrue(self.path.exists())
    pytree.save(self.path, _state())
    with self.assertRaisesRegex(ValueError, "seed: stored 'nothing', asked 1"):
      pytree.load(self.path, _state(), {"seed": 1})

  def test_other_shapes(self):
    pytree.save(self.path, _state())
    with self.assertRaisesRegex(ValueError, "is of another run"):
      pytree.load(self.path, (1, np.zeros(3)))

  @parameterized.parameters(
      (np.full((2, 3), "x"),), (np.ones((2, 3), np.int32),), (None,))
  def test_other_kinds_and_numbers_of_leaves(self, value):
    leaves = {f"arr_{i}": np.asarray(leaf) for i, leaf in enumerate((
        3, np.ones((2, 3), np.float32), np.arange(3, dtype=np.int32),
        np.zeros(2, np.uint32)))}
    self.path.parent.mkdir()
    self.path.write_bytes(arrays.pack(leaves))
    self.assertEqual(pytree.load(self.path, _state()).step, 3)
    leaves["arr_1"] = value
    self.path.write_bytes(arrays.pack(
        {name: leaf for name, leaf in leaves.items() if leaf is not None}))
    with self.assertRaisesRegex(ValueError, "is of another run"):
      pytree.load(self.path, _state())

  @parameterized.parameters(b"{", b"\xff", b"[" * 100_000)
  def test_an_identity_that_is_no_json_is_damage(self, content):
    pytree.save(self.path, _state(3))
    with np.load(self.path) as stored:
      leaves = dict(stored)
    leaves["identity"] = np.frombuffer(content, np.uint8)
    self.path.write_bytes(arrays.pack(leaves))
    begun = _state()
    with self.assertLogs("absl", "WARNING"):
      self.assertIs(pytree.load(self.path, begun, {"seed": 1}), begun)

  def test_damaged_states_are_set_aside(self):
    pytree.save(self.path, _state(3), {"seed": 1})
    content, begun = self.path.read_bytes(), _state()
    rng = np.random.default_rng(0)
    flipped = bytearray(content)
    flipped[content.index(b"NUMPY") + 99] ^= 4
    for damaged in (b"", b"no zip", bytes(flipped), *(
        content[:cut] for cut in rng.choice(len(content), 9))):
      self.path.write_bytes(damaged)
      with self.assertLogs("absl", "WARNING") as logs:
        self.assertIs(pytree.load(self.path, begun, {"seed": 1}), begun)
      self.assertRegex(logs.output[0], "s.npz is damaged .*s.npz.damaged")
      self.assertFalse(self.path.exists())
    self.assertLen(list(self.path.parent.glob("s.npz.damaged*")), 12)
    self.path.write_bytes(content)
    self._assert_equal(pytree.load(self.path, begun), _state(3))

  def test_a_power_loss_undoes_the_renaming(self):
    pytree.save(self.path, _state(3))
    self.path.rename(self.path.with_name(
        atomic.leftover_name(process.current())))
    self.assertEqual(pytree.load(self.path, _state()).step, 0)


if __name__ == "__main__":
  absltest.main()
