"""JAX_ENABLE_X64, which other programs need, changes no random draw of ours."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcal import provenance
from jaxcal.adapt.prompt import flatness
from jaxcal.data import augmix
from jaxcal.data import views
from jaxcal.tuning import initial

_SIZE = np.array([53, 77], np.int32)


def _boxes(**changes):
  recipe = views.Recipe(size=8, resize=8, num_views=30, **changes)
  drawn = views.draw(
      jnp.asarray(views.image_key(0, "a")), jnp.asarray(_SIZE), recipe)
  return drawn.box, drawn.mirrored


class DrawsTest(parameterized.TestCase):

  @parameterized.named_parameters(
      ("boxes", _boxes),
      # No box fits: the largest one of an allowed ratio is taken.
      ("centred", lambda: _boxes(area=(0.9, 1.0), ratio=(3.0, 4.0))),
      ("augmix", lambda: augmix.draw(jax.random.key(1), 8).operations),
      ("vectors", lambda: initial.vectors(jax.random.key(3), (4, 5))),
      ("linear", lambda: initial.linear(jax.random.key(4), 4, 5)),
      ("context", lambda: flatness.random_context(jax.random.key(5), (4, 5))))
  @pytest.mark.slow
  def test_same_draws(self, draw):
    with jax.enable_x64(False):
      narrow = jax.tree.map(np.asarray, draw())
    with jax.enable_x64(True):
      wide = jax.tree.map(np.asarray, draw())
    # Other numbers would differ by more than a rounding.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
                 narrow, wide)

  @pytest.mark.slow
  def test_boxes_as_they_have_always_been(self):
    (top, left, height, width), mirrored = _boxes()
    self.assertEqual(
        np.stack([top, left, height, width, mirrored], -1)[:3].tolist(),
        [[21, 13, 19, 20, 0], [25, 28, 19, 17, 0], [9, 8, 43, 46, 0]])

  def test_provenance_says_which(self):
    for on in (False, True):
      with jax.enable_x64(on):
        self.assertEqual(provenance.describe()["jax_enable_x64"], str(on))


if __name__ == "__main__":
  absltest.main()
