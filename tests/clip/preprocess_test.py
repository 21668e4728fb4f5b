import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.clip import preprocess

MEAN, STD = (0.1, 0.5, 0.9), (0.5, 0.25, 2.0)


@functools.partial(jax.jit, static_argnums=1)
def _standardised(values, dtype=jnp.float32):
  return preprocess.standardise(values, MEAN, STD, dtype)


class PreprocessTest(parameterized.TestCase):

  def test_hand_case(self):
    pixels = np.array([[[[0, 255, 51]]]], np.uint8)
    np.testing.assert_allclose(
        preprocess.normalise_pixels(pixels, MEAN, STD),
        [[[[-0.2, 2.0, -0.35]]]], rtol=1e-6)

  @parameterized.parameters((), (4,), (2, 3))
  def test_any_number_of_leading_axes(self, *leading):
    pixels = np.full((*leading, 2, 2, 3), 102, np.uint8)
    out = preprocess.normalise_pixels(pixels, MEAN, STD)
    self.assertEqual(out.shape, pixels.shape)
    np.testing.assert_allclose(
        np.asarray(out)[..., 2], np.full(pixels.shape[:-1], -0.25), rtol=1e-6)

  @parameterized.parameters("float32", "bfloat16")
  def test_standardise_is_the_same_for_pixels(self, dtype):
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    for values in (pixels, np.float32(pixels)):
      out = _standardised(values, dtype)
      self.assertEqual(out.dtype, dtype)
      np.testing.assert_array_equal(
          out, preprocess.normalise_pixels(pixels, MEAN, STD, dtype))

  @parameterized.parameters((), (2, 3))
  def test_standardise_between_pixels(self, *leading):
    values = np.random.default_rng(0).uniform(0, 255, (*leading, 4, 4, 3))
    values.flat[:4] = 0, 255, 127.5, 0.25
    expected = np.stack([
        (values[..., c] / 255 - MEAN[c]) / STD[c] for c in range(3)], -1)
    out = _standardised(np.float32(values))
    np.testing.assert_allclose(out, expected, atol=2e-6)
    with jax.enable_x64(True):
      out = _standardised(values, jnp.float64)
    np.testing.assert_allclose(out, expected, atol=1e-14)

  def test_only_uint8(self):
    with self.assertRaisesRegex(TypeError, "uint8 pixels expected.*float32"):
      preprocess.normalise_pixels(np.zeros((1, 2, 2, 3)), MEAN, STD)

  @parameterized.named_parameters(
      ("old", {"size": 8, "crop_size": 8, "resample": 2,
               "feature_extractor_type": "CLIPFeatureExtractor"},
       preprocess.Preprocess(8, 8, "bilinear")),
      ("new", {"size": {"shortest_edge": 10},
               "crop_size": {"height": 8, "width": 8}, "resample": 3,
               "image_mean": list(MEAN), "image_std": list(STD)},
       preprocess.Preprocess(10, 8, "bicubic", MEAN, STD)),
      ("exact", {"size": {"height": 8, "width": 8}, "do_center_crop": False},
       preprocess.Preprocess((8, 8), 8)),
      ("nothing_said", {}, preprocess.Preprocess(8, 8)),
      ("not_normalised", {"do_normalize": False, "image_mean": list(MEAN)},
       preprocess.Preprocess(8, 8, mean=(0, 0, 0), std=(1, 1, 1))),
  )
  def test_settings(self, settings, expected):
    self.assertEqual(preprocess.from_image_processor(settings, 8), expected)

  @parameterized.parameters(
      ({"do_rescale": False}, 1.0), ({"rescale_factor": 1 / 127.5}, 1 / 127.5))
  def test_another_factor_of_the_pixels(self, settings, factor):
    settings |= {"image_mean": list(MEAN), "image_std": list(STD)}
    chosen = preprocess.from_image_processor(settings, 8)
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3) * 20
    np.testing.assert_allclose(
        preprocess.normalise_pixels(pixels, chosen.mean, chosen.std),
        (pixels * factor - np.array([[MEAN]])) / np.array([[STD]]), rtol=2e-5,
        atol=1e-6)

  def test_agrees_with_the_image_processor_of_transformers(self):
    import transformers
    backend = getattr(transformers, "CLIPImageProcessorPil",
                      transformers.CLIPImageProcessor)
    processor = backend(
        size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    theirs = np.asarray(processor(image)["pixel_values"][0])
    chosen = preprocess.from_image_processor(processor.to_dict(), 8)
    np.testing.assert_allclose(
        preprocess.normalise_pixels(image, chosen.mean, chosen.std),
        theirs.transpose(1, 2, 0), atol=1e-5)

  @parameterized.parameters(
      ({"crop_size": 9}, r"images of \(9, 9\), but the model takes 8 x 8"),
      ({"do_center_crop": False}, "the model takes only squares"),
      ({"size": {"height": 8, "width": 9}, "do_center_crop": False},
       r"images of \(8, 9\)"),
      ({"do_resize": False}, "do_resize is false"),
      ({"size": {"longest_edge": 8}}, "'shortest_edge', or of 'height'"),
      ({"resample": 5}, "unknown resampling number 5; choose from: .*bicubic"),
      ({"image_std": [1, 0, 1]}, "image_std is .*three finite numbers above 0"),
  )
  def test_errors(self, settings, message):
    with self.assertRaisesRegex(ValueError, message):
      preprocess.from_image_processor(settings, 8)


if __name__ == "__main__":
  absltest.main()
