"""Directions and strengths of regularisers, on real CLIP and by differences."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcal.adapt.prompt import diagnostics
from jaxcal.adapt.prompt import engine
from jaxcal.adapt.prompt import methods
from tests import shared

# Settings in the order of the tables: published weights, SoC at two margins.
_METHODS = {
    "zero_shot": methods.ZeroShot(), "tpt": methods.Tpt(),
    "c_tpt": methods.CTpt(), "o_tpt": methods.OTpt(),
    "o_tpt_published": methods.OTptPublished(),
    "soc_50": methods.Soc(delta=0.5), "soc_85": methods.Soc(delta=0.85),
    "a_tpt": methods.ATpt(), "soc_quantile": methods.SocQuantile()}

# OpenAI's ViT-B/32, "a {class name}": pairwise cosines (least, mean, greatest),
# shares of pairs beyond .5, .7, .8, .85 and .9; values of C-TPT, O-TPT, A-TPT;
# effective weights of C-TPT, O-TPT, SoC at .5, A-TPT; cosines of gradients, of
# C-TPT with O-TPT, SoC .5 and SoC .85, of A-TPT and the quantile with O-TPT.
# Worked out with other programs, as spec/regulariser_strength.md rounds them.
_REAL = {
    "coco_clip_a+cname": (
        (.659, .799, .936), (1, .989, .503, .106, .009), (.442, 6.18, .484),
        (5.0, 14.2, 1.35, 2.1), (.994, .993, .996, .534, .013)),
    "o365_clip_a+cnamefix": (
        (.520, .765, .962), (1, .880, .262, .035, .002), (.480, 13.6, .484),
        (2.3, 15.0, .67, .98), (.994, .991, .996, .490, .015)),
    "lvis_v1_clip_a+cname": (
        (.469, .743, .965), (1, .804, .126, .014, .0008), (.503, 24.8, .475),
        (1.25, 15.6, .38, .53), (.995, .992, .997, .461, .008)),
}


def _unit(rng, k, d):
  features = rng.normal(size=(k, d)) + 1
  return features / np.linalg.norm(features, axis=1, keepdims=True)


def _toy(rng, m=2, w=3, k=5, d=4):
  """An encoder without a transformer, and a context."""
  mixing = jnp.asarray(rng.normal(size=(k, d, m * w)))

  def encode(context):
    features = 1 + mixing @ context.reshape(-1)
    return features / jnp.sqrt((features * features).sum(-1, keepdims=True))

  return encode, jnp.asarray(0.1 * rng.normal(size=(m, w)))


class DiagnosticsTest(parameterized.TestCase):

  @parameterized.named_parameters((name, name) for name in _REAL)
  @pytest.mark.slow
  def test_real_clip(self, name):
    folder = shared.path("data/detic_text_features")
    features = np.load(folder / f"{name}.npy").astype(np.float64)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    cosines, beyond, values, effective, directions = _REAL[name]
    with jax.enable_x64(True):
      geometry = diagnostics.geometry(features)
      pulls = diagnostics.by_features(_METHODS, features)
    found = geometry.cosines
    np.testing.assert_allclose(
        (found.min(), found.mean(), found.max()), cosines, atol=6e-4)
    np.testing.assert_allclose(
        [geometry.beyond(margin) for margin in (.5, .7, .8, .85, .9)], beyond,
        atol=6e-4)
    self.assertBetween(geometry.dominant_classes, .855, .955)
    self.assertBetween(geometry.dominant_share, .295, .325)
    at = pulls.names.index
    row = lambda *names: [at(one) for one in names]
    np.testing.assert_allclose(
        np.abs(pulls.values[row("c_tpt", "o_tpt", "a_tpt")]), values, rtol=5e-3)
    np.testing.assert_allclose(
        pulls.effective_weights[row("c_tpt", "o_tpt", "soc_50", "a_tpt")],
        effective, rtol=2e-2)
    matrix = pulls.cosines
    np.testing.assert_allclose(
        [matrix[at("c_tpt"), at("o_tpt")], matrix[at("c_tpt"), at("soc_50")],
         matrix[at("c_tpt"), at("soc_85")], matrix[at("a_tpt"), at("o_tpt")],
         matrix[at("soc_quantile"), at("o_tpt")]], directions, atol=2e-3)
    for one in ("o_tpt_published", "soc_50"):
      self.assertGreater(matrix[at(one), at("o_tpt")], .998)

  def test_by_features_along_the_sphere(self):
    features = _unit(np.random.default_rng(0), 5, 4)
    with jax.enable_x64(True):
      found = diagnostics.by_features({"o": methods.OTpt()}, features)
      loss = methods.OTpt().objective().regulariser

      def along(step):
        moved = features + step
        return float(loss(jnp.asarray(moved / np.linalg.norm(
            moved, axis=1, keepdims=True))))

      slopes = np.array([
          (along(1e-6 * one) - along(-1e-6 * one)) / 2e-6
          for one in np.eye(20).reshape(20, 5, 4)])
    self.assertAlmostEqual(found.norms[0], np.linalg.norm(slopes), places=7)

  @pytest.mark.slow
  def test_by_context_by_differences(self):
    chosen = {"c": methods.CTpt(), "a": methods.ATpt(),
              "s": methods.Soc(delta=0.9)}
    with jax.enable_x64(True):
      encode, context = _toy(np.random.default_rng(1))
      found = diagnostics.by_context(
          chosen, engine.prepare(encode, context, 10.0))
      slopes = []
      for method in chosen.values():
        objective = method.objective()
        sign = np.sign(float(objective.weighting(*jnp.ones(2))))
        slopes.append([sign * float(
            objective.regulariser(encode(context + step)) -
            objective.regulariser(encode(context - step))) / 2e-6
                       for step in 1e-6 * np.eye(6).reshape(6, 2, 3)])
    slopes = np.array(slopes)
    norms = np.linalg.norm(slopes, axis=1)
    np.testing.assert_allclose(found.norms, norms, rtol=1e-6)
    np.testing.assert_allclose(
        found.cosines, slopes @ slopes.T / np.outer(norms, norms), atol=1e-6)
    np.testing.assert_allclose(
        found.same_signs,
        [[np.mean((one > 0) == (other > 0)) for other in slopes]
         for one in slopes])
    np.testing.assert_allclose(found.weights, [50, 10, 30])

  @pytest.mark.slow
  def test_a_weight_that_belongs_to_an_image_is_none_of_a_data_set(self):
    found = diagnostics.by_features(
        {"q": methods.SocQuantile()}, _unit(np.random.default_rng(0), 5, 4))
    np.testing.assert_array_equal(found.effective_weights, [np.nan])
    self.assertGreater(found.norms[0], 0)

  def test_no_regulariser(self):
    encode, context = _toy(np.random.default_rng(3), k=1)
    alone = engine.prepare(encode, context, 10.0)
    with self.assertRaisesRegex(ValueError, "zero_shot, tpt has a regulariser"):
      diagnostics.by_context(
          {"zero_shot": methods.ZeroShot(), "tpt": methods.Tpt()}, alone)

  def test_geometry_by_hand(self):
    features = np.array([[.6, .8, 0], [0, 1, 0], [1, 0, 0]])
    found = diagnostics.geometry(features)
    np.testing.assert_allclose(np.sort(found.cosines), [0, .6, .8], atol=1e-6)
    self.assertEqual(found.beyond(.7), 1 / 3)
    self.assertEqual(found.dominant_classes, 2 / 3)
    self.assertAlmostEqual(found.dominant_share, (.64 + 1) / 3)


if __name__ == "__main__":
  absltest.main()
