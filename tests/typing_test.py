"""Arrays of the host from whatever holds numbers."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcal.typing import as_numpy


class AsNumpyTest(parameterized.TestCase):

  def _check(self, found, expected, dtype):
    self.assertIs(type(found), np.ndarray)
    self.assertEqual(found.dtype, dtype)
    np.testing.assert_array_equal(found, expected)

  @parameterized.parameters(
      np.float64, np.float32, np.float16, np.int64, np.uint8, bool)
  def test_numpy_stays_as_it_is(self, dtype):
    given = np.array([[0, 1], [1, 0]], dtype)
    self.assertIs(as_numpy(given), given)

  @parameterized.parameters(
      (jnp.float32, np.float32), (jnp.float16, np.float16),
      (jnp.bfloat16, np.float32), (jnp.float8_e4m3fn, np.float32),
      (jnp.int32, np.int32), (bool, bool))
  def test_jax(self, dtype, expected):
    given = jnp.array([[0, 1], [1, 0]], dtype)
    self._check(as_numpy(given), [[0, 1], [1, 0]], expected)

  def test_numpy_of_a_type_that_jax_brings(self):
    given = np.array([0.5, 3], jnp.bfloat16)
    self._check(as_numpy(given), [0.5, 3], np.float32)

  def test_jax_of_double_precision_and_on_another_device(self):
    with jax.enable_x64(True):
      self._check(as_numpy(jnp.array([1e-300])), [1e-300], np.float64)
    given = jax.device_put(jnp.arange(3), jax.devices()[-1])
    self._check(as_numpy(given), [0, 1, 2], np.int32)

  @parameterized.parameters(
      ("float32", np.float32), ("float64", np.float64),
      ("float16", np.float16), ("bfloat16", np.float32),
      ("float8_e4m3fn", np.float32), ("int64", np.int64), ("bool", bool))
  @pytest.mark.needs("torch")
  def test_torch(self, name, expected):
    import torch
    given = torch.tensor([[0, 1], [1, 0]]).to(getattr(torch, name))
    self._check(as_numpy(given), [[0, 1], [1, 0]], expected)

  @pytest.mark.needs("torch")
  def test_torch_with_a_gradient(self):
    import torch
    for dtype in (torch.float32, torch.bfloat16):
      given = torch.ones(2, dtype=dtype, requires_grad=True)
      self._check(as_numpy(2 * given), [2, 2], np.float32)
    self._check(as_numpy(torch.nn.Parameter(torch.ones(2))), [1, 1],
                np.float32)

  def test_lists(self):
    self._check(as_numpy([[1, 2], (3, 4)]), [[1, 2], [3, 4]], np.int64)
    self._check(as_numpy([True, False]), [True, False], bool)
    self._check(as_numpy([0.1, 0.2]), [0.1, 0.2], np.float64)
    self._check(as_numpy([np.float32(0.5), jnp.float32(2)]), [0.5, 2],
                np.float32)
    self._check(as_numpy([]), [], np.float64)
    self._check(as_numpy(0.25), 0.25, np.float64)

  @pytest.mark.needs("torch")
  def test_lists_of_tensors(self):
    import torch
    given = [torch.ones(2, requires_grad=True),
             torch.zeros(2, dtype=torch.bfloat16)]
    self._check(as_numpy(given), [[1, 1], [0, 0]], np.float32)

  def test_ragged_lists_are_refused(self):
    with self.assertRaisesRegex(ValueError, r"one shape.*\(1,\) and \(2,\)"):
      as_numpy([[1, 2], [3]])


if __name__ == "__main__":
  absltest.main()
