"""Tests of jaxcal.data.views."""

import dataclasses
import functools
import math

from absl.testing import absltest
from absl.testing import parameterized
import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np
from PIL import Image
import pytest
from scipy import stats

from jaxcal.data import augmix
from jaxcal.data import views
from tests import shared

_PILLOW = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# Compiled once for all tests, which keep to few canvases and sizes.
_CLEAN_VIEW = jax.jit(
    views.clean_view, static_argnames=("resize", "crop", "resample", "offset")
)
_RESIZED = jax.jit(
    lambda canvas, size, resize, **options: views.clean_view(
        canvas, size, resize=resize, **options),
    static_argnames=("crop", "offset"),
)
_CROP_RESIZED = jax.jit(
    views.crop_resized, static_argnums=2, static_argnames="resample"
)
_MAKE_VIEWS = jax.jit(views.make_views, static_argnums=3)
_DRAW = jax.jit(views.draw, static_argnums=2)
_COEFFICIENTS = jax.jit(views._coefficients, static_argnums=(4, 5, 6))
_PLAIN = views.Recipe(size=16, resize=16, num_views=20)
_MIXED = dataclasses.replace(_PLAIN, augmix=True)


def _image(height=40, width=50, seed=0):
  generator = np.random.default_rng(seed)
  return generator.integers(256, size=(height, width, 3), dtype=np.uint8)


def _coordinates(height, width):
  """An image whose pixels tell their own row and column."""
  image = np.full((height, width, 3), 7, np.uint8)
  image[..., 0] = np.arange(height)[:, None]
  image[..., 1] = np.arange(width)[None]
  return image


def _clean_view(image, canvas=None, **options):
  canvas = canvas or views.canvas_shape(*image.shape[:2])
  return np.asarray(_CLEAN_VIEW(
      views.on_canvas(image, canvas), np.array(image.shape[:2]), **options
  ))


def _crop_resized(image, box, size, canvas=None, **options):
  canvas = views.on_canvas(
      image, canvas or views.canvas_shape(*image.shape[:2]))
  box = views.Box(*(int(edge) for edge in box))
  return np.asarray(_CROP_RESIZED(canvas, box, size, **options))


def _pillow(image, height, width, resample):
  """Pillow's resize, the horizontal pass first in all of its versions."""
  image = Image.fromarray(image)
  if resample != "nearest":
    image = image.resize((width, image.height), _PILLOW[resample])
  return np.asarray(image.resize((width, height), _PILLOW[resample]))


def _make_views(image, recipe, *, seed=0, image_id="ant/a.jpg", canvas=None):
  canvas = canvas or views.canvas_shape(*image.shape[:2])
  return np.asarray(_MAKE_VIEWS(
      views.on_canvas(image, canvas), np.array(image.shape[:2]),
      views.image_key(seed, image_id), recipe,
  ))


class StoredViewsTest(parameterized.TestCase):
  """Against pixels made with the pinned and the newest Pillow."""

  def setUp(self):
    super().setUp()
    self.stored = shared.arrays("oracles/tpt/views_oracle.npz")

  def assert_close(self, view, stored, share):
    difference = np.abs(view.astype(int) - stored)
    self.assertLessEqual(difference.max(), 1)
    self.assertLess((difference > 0).mean(), share)

  @parameterized.product(
      image=["img0", "img1", "img2"], resample=["bilinear", "bicubic"]
  )
  def test_boxes(self, image, resample):
    kind = "crops32" if resample == "bilinear" else "crops32_bicubic"
    for number, box in enumerate(self.stored[f"{image}/boxes"]):
      crop = _crop_resized(
          self.stored[f"{image}/rgb"], box, 32, (256, 384), resample=resample
      )
      # Pillow 13 changed the order of the two passes for some tall boxes.
      for passes, share in (("hfirst", 0.06), ("pillow13", 0.25)):
        stored = self.stored[f"{image}/{kind}_{passes}"][number]
        self.assert_close(crop, stored, share)

  @parameterized.parameters("img0", "img1", "img2")
  def test_clean_view(self, image):
    clean = _clean_view(self.stored[f"{image}/rgb"], resize=32, crop=32)
    self.assert_close(clean, self.stored[f"{image}/center32"], 0.02)

  @parameterized.parameters("img0", "img1", "img2")
  def test_resized_as_a_whole(self, image):
    resized = self.stored[f"{image}/resized_bicubic"]
    height, width = resized.shape[:2]
    size = max(height, width)
    padded = _clean_view(self.stored[f"{image}/rgb"], resize=32, crop=size)
    top, left = (size - height) // 2, (size - width) // 2
    inside = padded[top:top + height, left:left + width]
    self.assert_close(inside, resized, 0.02)
    self.assertEqual(padded.sum(), inside.sum())


class PillowTest(parameterized.TestCase):

  @parameterized.product(
      size=[7, 32], resample=["bilinear", "bicubic", "lanczos", "nearest"]
  )
  def test_random_boxes(self, size, resample):
    generator = np.random.default_rng(3)
    image = _image(100, 120)
    for _ in range(40):
      # Odd sides: no centre falls between two pixels, where "nearest" would
      # hang on the last bit of a float.
      height, width = 1 + 2 * generator.integers(50, size=2)
      top = generator.integers(100 - height + 1)
      left = generator.integers(120 - width + 1)
      crop = _crop_resized(
          image, (top, left, height, width), size, resample=resample
      )
      part = image[top:top + height, left:left + width]
      expected = _pillow(part, size, size, resample).astype(int)
      limit = {"nearest": 0, "bilinear": 1}.get(resample, 2)
      self.assertLessEqual(np.abs(crop - expected).max(), limit)

  @parameterized.parameters(*_PILLOW)
  def test_flat_colour_stays_flat(self, resample):
    image = np.full((100, 120, 3), (1, 128, 254), np.uint8)
    for size in (7, 32):
      for box in ((0, 0, 100, 120), (5, 6, 70, 3), (7, 8, 9, 101)):
        view = _crop_resized(image, box, size, resample=resample)
        np.testing.assert_array_equal(
            view, np.tile(image[0, 0], (size, size, 1)))

  @parameterized.parameters(
      ("bilinear", (300, 16384)), ("bicubic", (8192, 64)),
      ("bicubic", (1, 1024)), ("lanczos", (1, 1024)),
  )
  def test_extreme_shapes(self, resample, sides):
    image = _image(*sides)
    crop = 16 if min(sides) > 1 else 64
    expected = _pillow(image, *(
        crop * side // min(sides) for side in sides), resample)
    start = [round((side - crop) / 2) for side in expected.shape[:2]]
    middle = tuple(slice(edge, edge + crop) for edge in start)
    view = _clean_view(image, resize=crop, crop=crop, resample=resample)
    self.assertLessEqual(np.abs(view - expected[middle].astype(int)).max(), 2)

  @parameterized.parameters("bilinear", "bicubic", "lanczos")
  def test_largest_enlargement(self, resample):
    # A ramp in one pixel row, enlarged to 2^20 columns, is still that ramp.
    image = np.arange(1024)[None, :, None] // 4 * np.ones((1, 1, 3))
    view = _clean_view(
        image.astype(np.uint8), resize=1024, crop=8, resample=resample
    )
    self.assertLessEqual(np.abs(view.astype(int) - 128).max(), 1)

  @parameterized.parameters("bilinear", "bicubic", "lanczos")
  def test_sums_are_exact_in_float32(self, resample):
    # The claim that lets a device add in any order.
    for length in (1, 5, 31, 32, 33, 100, 1000, 16384):
      coefficients = np.asarray(_COEFFICIENTS(
          0, length, 32, 0, 32, 16384, resample), np.float64)
      np.testing.assert_array_equal(coefficients, np.round(coefficients))
      largest = 255 * np.abs(coefficients).sum(axis=1).max()
      self.assertLess(largest + 2**14, 2**24)


class CleanViewTest(parameterized.TestCase):

  def resized(self, image, resize, **options):
    """With a traced size, to compile only once."""
    return _RESIZED(
        views.on_canvas(image, (64, 64)), np.array(image.shape[:2]),
        np.array(resize), **options
    )

  # First rows by torchvision's int(round((edge - crop) / 2)) and by the rule
  # of Hugging Face's processors, (edge - crop) // 2, worked out by hand.
  @parameterized.parameters(
      (30, 0, 0), (31, 0, 0), (32, 1, 1), (33, 2, 1), (34, 2, 2), (35, 2, 2),
      (37, 4, 3), (39, 4, 4),
  )
  def test_odd_margins(self, edge, rounded, floored):
    image = _coordinates(edge, 40)
    for offset, first in (("round", rounded), ("floor", floored)):
      view = self.resized(image, image.shape[:2], crop=30, offset=offset)
      np.testing.assert_array_equal(view, image[first:first + 30, 5:35])

  # torchvision pads (crop - edge) // 2 first; Hugging Face rounds up instead.
  @parameterized.parameters((9, 0, 1), (8, 1, 1), (7, 1, 2), (1, 4, 5))
  def test_padding(self, edge, rounded, floored):
    image = _coordinates(edge, 20)
    for offset, first in (("round", rounded), ("floor", floored)):
      expected = np.zeros((10, 10, 3), np.uint8)
      expected[first:first + edge] = image[:, 5:15]
      view = self.resized(image, image.shape[:2], crop=10, offset=offset)
      np.testing.assert_array_equal(view, expected)

  # 16 * 47 / 31 = 24.26 and 16 * 31 / 16 = 31, rounded down.
  @parameterized.parameters(
      (31, 47, (16, 24)), (47, 31, (24, 16)), (16, 31, (16, 31)),
      (20, 20, (16, 16)),
  )
  def test_shorter_edge(self, height, width, exact):
    image = _image(height, width)
    np.testing.assert_array_equal(
        _clean_view(image, resize=16, crop=24),
        self.resized(image, exact, crop=24),
    )

  # A square of the model's size, as SigLIP has it, whatever the image's shape;
  # 33 stands for a size that patches do not divide.
  @parameterized.parameters((40, 50, 32), (50, 17, 32), (20, 63, 33))
  def test_a_square_that_does_not_keep_the_aspect(self, height, width, side):
    image = _image(height, width, seed=side)
    view = _clean_view(image, (64, 64), resize=(side, side), crop=side)
    pillow = _pillow(image, side, side, "bicubic")
    self.assertEqual(view.shape, (side, side, 3))
    self.assertLessEqual(np.abs(view.astype(int) - pillow).max(), 1)
    # Another thing than the centre of an image that keeps its aspect.
    other = _clean_view(image, (64, 64), resize=side, crop=side)
    self.assertGreater(np.abs(view.astype(int) - other).max(), 30)

  @parameterized.parameters(
      (dict(resample="cubic"), "filter 'cubic'; choose from: bicubic, bil"),
      (dict(offset="ceil"), "offset 'ceil'; choose from: floor, round"),
  )
  def test_refuses(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      _clean_view(_image(), resize=8, crop=8, **options)

  @pytest.mark.slow
  def test_hugging_face_processor(self):
    pytest.importorskip("transformers")
    processor_class = _pillow_processor()
    generator = np.random.default_rng(0)
    for size, crop in ((32, 32), (20, 27)):
      processor = processor_class(
          size={"shortest_edge": size},
          crop_size={"height": crop, "width": crop},
          do_rescale=False,
          do_normalize=False,
      )
      # Wide ones: Pillow's order of passes is ours.
      for height, width in zip(*generator.integers(
          (10, 64), (64, 120), size=(12, 2)).T, strict=True):
        image = _image(height, width, seed=height)
        expected = processor(
            image, return_tensors="np", input_data_format="channels_last"
        )["pixel_values"][0].transpose(1, 2, 0)
        view = _clean_view(
            image, (128, 128), resize=size, crop=crop, offset="floor"
        )
        self.assertLessEqual(np.abs(view - expected.astype(int)).max(), 2)


def _pillow_processor():
  """The processor that resizes with Pillow, under its name of the day."""
  try:
    from transformers.models.clip import image_processing_pil_clip
    return image_processing_pil_clip.CLIPImageProcessorPil
  except ImportError:  # transformers 4
    import transformers
    return transformers.CLIPImageProcessor


@functools.partial(jax.jit, static_argnames=("count", "area", "ratio"))
def _boxes(height, width, count, **ranges):
  keys = jax.random.split(jax.random.key(1), count)
  return jax.vmap(
      lambda key: views.random_box(key, height, width, **ranges))(keys)


class RandomBoxTest(parameterized.TestCase):

  def boxes(self, height, width, count=4000, **ranges):
    return np.array(_boxes(height, width, count, **ranges), np.float64)

  @parameterized.parameters((600, 600), (300, 600), (700, 500), (37, 53))
  def test_boxes_lie_inside_and_in_the_ranges(self, height, width):
    top, left, box_height, box_width = self.boxes(height, width)
    self.assertTrue((top >= 0).all() and (left >= 0).all())
    self.assertTrue((box_height >= 1).all() and (box_width >= 1).all())
    self.assertTrue((top + box_height <= height).all())
    self.assertTrue((left + box_width <= width).all())
    # Half a pixel of rounding on either side.
    low = (box_height - 0.5) * (box_width - 0.5) / (height * width)
    high = (box_height + 0.5) * (box_width + 0.5) / (height * width)
    self.assertTrue((low <= 1).all() and (high >= 0.08).all())
    self.assertTrue(((box_width - 0.5) / (box_height + 0.5) <= 4 / 3).all())
    self.assertTrue(((box_width + 0.5) / (box_height - 0.5) >= 3 / 4).all())

  def test_uniform_area_and_log_ratio_where_all_boxes_fit(self):
    top, left, height, width = self.boxes(2000, 2000, area=(0.08, 0.5))
    area = height * width / 2000**2
    log_ratio = np.log(width / height)
    bound = math.log(4 / 3)
    self.assert_distribution(area, stats.uniform(0.08, 0.42).cdf)
    self.assert_distribution(log_ratio, stats.uniform(-bound, 2 * bound).cdf)
    self.assertLess(abs(np.corrcoef(area, log_ratio)[0, 1]), 0.05)
    # Each place is as likely as any other.
    self.assert_distribution((top + 0.5) / (2001 - height), stats.uniform().cdf)
    self.assert_distribution((left + 0.5) / (2001 - width), stats.uniform().cdf)

  # Drawing again keeps area and log ratio uniform on the pairs that fit: area
  # a in [0.08, 1], log ratio between max(-L, log(a c)) and min(L, log(c / a)),
  # c the image's own ratio and L = log 4/3. Ten misses are rare here.
  @parameterized.parameters((2000, 2000), (1500, 2000), (1800, 1200))
  def test_what_does_not_fit_is_drawn_again(self, height, width):
    _, _, box_height, box_width = self.boxes(height, width)
    grid = np.linspace(0.08, 1, 20001)
    own, bound = width / height, math.log(4 / 3)
    density = np.maximum(
        np.minimum(bound, np.log(own / grid)) -
        np.maximum(-bound, np.log(own * grid)), 0
    )
    cumulative = np.cumsum(density) / density.sum()
    self.assert_distribution(
        box_height * box_width / (height * width),
        lambda area: np.interp(area, grid, cumulative),
    )

  def assert_distribution(self, values, cdf):
    self.assertGreater(stats.kstest(values, cdf).pvalue, 0.01)

  def test_other_ranges(self):
    _, _, height, width = self.boxes(
        1000, 1000, 200, area=(0.25, 0.25), ratio=(1.0, 1.0)
    )
    np.testing.assert_array_equal(height, 500)
    np.testing.assert_array_equal(width, 500)

  @parameterized.parameters(
      (10, 1000, (0, 493, 10, 13)),
      (1000, 10, (493, 0, 13, 10)),
      (1, 1000, (0, 499, 1, 1)),
  )
  def test_centred_box_for_extreme_images(self, height, width, expected):
    boxes = self.boxes(height, width, 20)
    np.testing.assert_array_equal(boxes.T, np.tile(expected, (20, 1)))

  def test_ten_tries(self):
    # A square's box of area a fits if the ratio lies between a and 1 / a. From
    # 0.95 to 1 that is rare, and misses give the whole image.
    _, _, height, width = self.boxes(4000, 4000, area=(0.95, 1.0))
    whole = (height == 4000) & (width == 4000)
    areas = np.linspace(0.95, 1, 1001)
    fits = -np.log(areas).mean() / math.log(4 / 3)
    for tries, plausible in ((9, False), (10, True), (11, False)):
      expected = (1 - fits)**tries
      deviation = math.sqrt(expected * (1 - expected) / 4000)
      self.assertEqual(abs(whole.mean() - expected) < 3 * deviation, plausible)

  @parameterized.parameters(
      (dict(area=(0.0, 1.0)), "area="), (dict(area=(0.5, 0.4)), "area="),
      (dict(area=(0.5, 1.1)), "area="), (dict(ratio=(0.0, 1.0)), "ratio="),
      (dict(ratio=(2.0, 1.0)), "ratio="),
  )
  def test_refuses(self, ranges, message):
    with self.assertRaisesRegex(ValueError, "expected 0 < low.*" + message):
      views.random_box(jax.random.key(0), 9, 9, **ranges)


class CropResizedTest(parameterized.TestCase):

  @parameterized.product(
      resample=["bilinear", "bicubic", "lanczos"], size=[8, 64]
  )
  def test_no_pixel_outside_the_box_has_a_say(self, resample, size):
    image = np.full((60, 60, 3), 255, np.uint8)
    image[20:37, 11:40] = 3
    crop = _crop_resized(image, (20, 11, 17, 29), size, resample=resample)
    np.testing.assert_array_equal(crop, np.full((size, size, 3), 3))

  def test_box_of_the_views_own_size_is_copied(self):
    image = _image()
    crop = _crop_resized(image, (3, 5, 16, 16), 16)
    np.testing.assert_array_equal(crop, image[3:19, 5:21])

  def test_refuses_unknown_filters(self):
    with self.assertRaisesRegex(ValueError, "filter 'cubic'; choose from"):
      _crop_resized(_image(), (0, 0, 9, 9), 8, resample="cubic")


class MakeViewsTest(parameterized.TestCase):

  def test_clean_view_first(self):
    made = _make_views(_image(), _PLAIN)
    self.assertEqual(made.shape, (20, 16, 16, 3))
    self.assertEqual(made.dtype, np.uint8)
    np.testing.assert_array_equal(
        made[0], _clean_view(_image(), resize=16, crop=16)
    )

  def test_a_square_clean_view_leaves_the_random_ones_alone(self):
    square = _make_views(
        _image(), dataclasses.replace(_PLAIN, resize=(16, 16)))
    pillow = _pillow(_image(), 16, 16, "bicubic")
    self.assertLessEqual(np.abs(square[0].astype(int) - pillow).max(), 1)
    np.testing.assert_array_equal(
        square[1:], _make_views(_image(), _PLAIN)[1:])

  def test_a_view_does_not_depend_on_how_many_there_are(self):
    few = dataclasses.replace(_PLAIN, num_views=6)
    np.testing.assert_array_equal(
        _make_views(_image(), few), _make_views(_image(), _PLAIN)[:6]
    )

  @pytest.mark.slow
  def test_canvas_batch_order_and_devices_do_not_matter(self):
    images = [_image(30 + 4 * n, 64 - 3 * n, seed=n) for n in range(8)]
    ids = [f"{n}.png" for n in range(8)]
    # Together backwards, two on each of four devices, on a larger canvas.
    mesh = jax.make_mesh((4,), ("data",), devices=jax.devices()[:4],
                         axis_types=(jax.sharding.AxisType.Auto,))
    spec = PartitionSpec("data")
    batch = jax.device_put((
        np.stack([views.on_canvas(image, (64, 96)) for image in images[::-1]]),
        np.array([image.shape[:2] for image in images[::-1]]),
        np.stack([views.image_key(0, name) for name in ids[::-1]]),
    ), NamedSharding(mesh, spec))
    together = jax.jit(jax.shard_map(
        jax.vmap(lambda *image: views.make_views(*image, _MIXED)),
        mesh=mesh, in_specs=spec, out_specs=spec))(*batch)
    for image, name, made in zip(
        images, ids, np.asarray(together)[::-1], strict=True):
      np.testing.assert_array_equal(
          made, _make_views(image, _MIXED, image_id=name))

  def test_repeatable_and_different(self):
    make = lambda **changes: _make_views(_image(), _PLAIN, **changes)
    first = make()
    np.testing.assert_array_equal(first, make())
    for other in (make(seed=1), make(image_id="ant/b.jpg")):
      np.testing.assert_array_equal(first[0], other[0])
      for view in range(1, 20):
        self.assertFalse(np.array_equal(first[view], other[view]))
    for view in range(2, 20):
      self.assertFalse(np.array_equal(first[1], first[view]))

  def test_options_reach_the_views(self):
    whole = _make_views(_image(), views.Recipe(
        16, resize=(16, 16), area=(1.0, 1.0), ratio=(1.25, 1.25),
        flip_probability=0.0, random_resample="bicubic", num_views=4,
    ))
    for view in whole[1:]:
      np.testing.assert_array_equal(view, whole[0])

  def test_half_are_mirrored(self):
    key, size = views.image_key(0, "ant/a.jpg"), np.array([20, 30])
    for probability, count in ((0.25, 500), (0.5, 1000)):
      drawn = _DRAW(key, size, views.Recipe(
          4, resize=4, num_views=2001, flip_probability=probability))
      # Four standard deviations.
      margin = 4 * math.sqrt(2000 * probability * (1 - probability))
      mirrored = np.asarray(drawn.mirrored)
      self.assertLessEqual(abs(mirrored.sum() - count), margin)

  @pytest.mark.slow
  def test_augmix_mixes_the_same_views(self):
    plain, mixed = (
        _make_views(_image(), recipe) for recipe in (_PLAIN, _MIXED)
    )
    self.assertEqual(mixed.dtype, np.float32)
    np.testing.assert_array_equal(mixed[0], plain[0])
    keys = _DRAW(
        views.image_key(0, "ant/a.jpg"), np.array([40, 50]), _PLAIN).mix_key
    mix = jax.jit(augmix.mix)
    for view in range(1, 20):
      np.testing.assert_array_equal(
          mixed[view], mix(keys[view - 1], plain[view]))

  def test_random_views_are_the_drawn_boxes(self):
    boxes, mirrored, _ = _DRAW(
        views.image_key(0, "ant/a.jpg"), np.array([40, 50]), _PLAIN)
    mirrored = np.asarray(mirrored)
    made = _make_views(_image(), _PLAIN)
    self.assertLess(mirrored.sum(), len(mirrored))
    self.assertGreater(mirrored.sum(), 0)
    for view, (top, left, height, width), mirror in zip(
        made[1:], np.stack(boxes, axis=1), mirrored, strict=True):
      part = _image()[top:top + height, left:left + width]
      expected = _pillow(part, 16, 16, "bilinear").astype(int)
      expected = expected[:, ::-1] if mirror else expected
      self.assertLessEqual(np.abs(view - expected).max(), 1)


class RecipeTest(parameterized.TestCase):

  def test_hashable_with_tuples(self):
    recipe = views.Recipe(8, resize=(9, 10))
    self.assertEqual(hash(recipe), hash(views.Recipe(8, resize=(9, 10))))
    self.assertNotEqual(recipe, views.Recipe(8, resize=(10, 9)))

  @parameterized.parameters(
      (dict(size=0), r"size in \[1, 1024\] pixels, got \(0,\)"),
      (dict(size=2000), r"size in \[1, 1024\] pixels, got \(2000,\)"),
      (dict(resize=(8, 0)), r"resize in \[1, 1024\] pixels, got \(8, 0\)"),
      (dict(num_views=0), "at least 1 view, got self.num_views=0"),
      (dict(resample="cubic"), "filter 'cubic'; choose from: bicubic"),
      (dict(random_resample="area"), "filter 'area'; choose from: bicubic"),
      (dict(offset="ceil"), "offset 'ceil'; choose from: floor, round"),
      (dict(area=(0.5, 1.1)), "expected 0 < low <= high <= 1, got area="),
      (dict(ratio=(2.0, 1.0)), "expected 0 < low <= high, got ratio="),
      (dict(flip_probability=1.5), r"probability=1.5 to lie in \[0, 1\]"),
  )
  def test_refuses(self, changes, message):
    with self.assertRaisesRegex(ValueError, message):
      views.Recipe(**(dict(size=8, resize=8) | changes))


class CanvasTest(parameterized.TestCase):

  @parameterized.parameters(
      (1, 64), (64, 64), (65, 96), (97, 128), (129, 192), (193, 256),
      (375, 384), (385, 512), (513, 768), (1000, 1024), (1025, 1536),
      (12289, 16384), (16384, 16384),
  )
  def test_sides(self, side, canvas_side):
    self.assertEqual(views.canvas_shape(side, 512), (canvas_side, 512))
    self.assertEqual(views.canvas_shape(512, side), (512, canvas_side))

  @parameterized.parameters(
      (0, 5), (5, 0), (16385, 16384), (1, 1025), (4096, 15), (255, 16384)
  )
  def test_refuses_sides(self, height, width):
    with self.assertRaisesRegex(
        ValueError, f"an image of {height} by {width} pixels; expected sides"
    ):
      views.canvas_shape(height, width)

  def test_narrowest(self):
    for sides in ((1, 1024), (256, 16384), (16384, 256)):
      views.canvas_shape(*sides)

  def test_on_canvas(self):
    canvas = views.on_canvas(_image(5, 7), (8, 9))
    np.testing.assert_array_equal(canvas[:5, :7], _image(5, 7))
    self.assertEqual(canvas.sum(), _image(5, 7).sum())
    with self.assertRaisesRegex(ValueError, "5 by 7 .*canvas of 6 by 6"):
      views.on_canvas(_image(5, 7), (6, 6))

  @parameterized.parameters(
      (np.zeros((4, 4, 3)), r"\[h w 3\], got float64"),
      (np.zeros((4, 4), np.uint8), r"got uint8 \[4, 4\]"),
      (np.zeros((0, 4, 3), np.uint8), r"\[0, 4, 3\]"), ([[0]], "got list"),
  )
  def test_refuses_what_is_no_image(self, image, message):
    with self.assertRaisesRegex(ValueError, message):
      views.on_canvas(image, (64, 64))


class ImageKeyTest(absltest.TestCase):

  def test_every_part_of_the_name_counts(self):
    keys = {
        tuple(views.image_key(*name).tolist())
        for name in ((0, "a"), (1, "a"), (0, "b"), (0, "1/a"), (11, "a"),
                     (1, "1/a"))
    }
    self.assertLen(keys, 6)

  def test_the_same_everywhere(self):
    # Stored views are only worth keeping while these numbers stand.
    for name, key in (
        ((0, "ant/a.jpg"), [2038413689, 1269377847]),
        ((7, "käfer"), [4015802848, 2565304454]),
    ):
      self.assertEqual(views.image_key(*name).tolist(), key)
    self.assertEqual(views.image_key(0, "a").dtype, np.uint32)

  def test_file_names_that_are_not_utf8(self):
    views.image_key(0, "a\udcff.jpg")


if __name__ == "__main__":
  absltest.main()
