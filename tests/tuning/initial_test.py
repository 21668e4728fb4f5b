"""Random beginnings: their ranges and spreads."""

from absl.testing import absltest
import jax
import numpy as np
import pytest

from jaxcal.tuning import initial
from tests import error_bars


class InitialTest(absltest.TestCase):

  def test_vectors(self):
    x = initial.vectors(jax.random.key(0), (40, 100))
    self.assertEqual(x.shape, (40, 100))
    error_bars.assert_normal(x, 0.02)

  @pytest.mark.needs("torch")
  def test_linear_is_pytorchs(self):
    import torch
    torch.manual_seed(0)
    ours = initial.linear(jax.random.key(0), 25, 2000)
    theirs = torch.nn.Linear(25, 2000)
    for name, other in (("kernel", theirs.weight.T), ("bias", theirs.bias)):
      other = other.detach().numpy()
      self.assertEqual(ours[name].shape, other.shape)
      for one in (ours[name], other):
        error_bars.assert_uniform(one, 25**-0.5)
      self.assertLessEqual(float(np.abs(ours[name]).max()), 0.2)


if __name__ == "__main__":
  absltest.main()
