"""Tests of jaxcal.data.views."""

import math
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import PIL
import pytest
from scipy import stats

from jaxcal.data import sources
from jaxcal.data import views
from tests import shared


def _image(height=40, width=50, seed=0):
  generator = np.random.default_rng(seed)
  return generator.integers(256, size=(height, width, 3), dtype=np.uint8)


def _coordinates(height, width):
  """An image whose pixels tell their own row and column."""
  image = np.full((height, width, 3), 7, np.uint8)
  image[..., 0] = np.arange(height)[:, None]
  image[..., 1] = np.arange(width)[None]
  return image


class StoredViewsTest(parameterized.TestCase):
  """Against pixels made with the pinned and the newest Pillow."""

  def setUp(self):
    super().setUp()
    path = shared.folder("oracles/tpt") / "views_oracle.npz"
    self.stored = np.load(path, allow_pickle=False)
    # Pillow 13 changed the order of the two passes for some tall boxes.
    newer = int(PIL.__version__.split(".")[0]) >= 13
    self.passes = "pillow13" if newer else "hfirst"

  @parameterized.product(
      image=["img0", "img1", "img2"], resample=["bilinear", "bicubic"]
  )
  def test_boxes(self, image, resample):
    kind = "crops32" if resample == "bilinear" else "crops32_bicubic"
    expected = self.stored[f"{image}/{kind}_{self.passes}"]
    boxes = self.stored[f"{image}/boxes"]
    for box, stored in zip(boxes, expected, strict=True):
      crop = views.crop_resized(
          self.stored[f"{image}/rgb"], views.Box(*box), 32, resample=resample
      )
      np.testing.assert_array_equal(crop, stored)

  @parameterized.parameters("img0", "img1", "img2")
  def test_clean_view(self, image):
    clean = views.clean_view(self.stored[f"{image}/rgb"], resize=32, crop=32)
    np.testing.assert_array_equal(clean, self.stored[f"{image}/center32"])

  @parameterized.parameters("img0", "img1", "img2")
  def test_resized_as_a_whole(self, image):
    resized = self.stored[f"{image}/resized_bicubic"]
    height, width = resized.shape[:2]
    size = max(height, width)
    padded = views.clean_view(
        self.stored[f"{image}/rgb"], resize=32, crop=size
    )
    top, left = (size - height) // 2, (size - width) // 2
    inside = padded[top:top + height, left:left + width]
    np.testing.assert_array_equal(inside, resized)
    self.assertEqual(padded.sum(), inside.sum())


class CleanViewTest(parameterized.TestCase):

  # First rows by torchvision's int(round((edge - crop) / 2)) and by the rule
  # of Hugging Face's processors, (edge - crop) // 2, worked out by hand.
  @parameterized.parameters(
      (30, 0, 0), (31, 0, 0), (32, 1, 1), (33, 2, 1), (34, 2, 2), (35, 2, 2),
      (37, 4, 3), (39, 4, 4),
  )
  def test_odd_margins(self, edge, rounded, floored):
    image = _coordinates(edge, 40)
    for offset, first in (("round", rounded), ("floor", floored)):
      view = views.clean_view(image, resize=(edge, 40), crop=30, offset=offset)
      np.testing.assert_array_equal(view, image[first:first + 30, 5:35])

  # torchvision pads (crop - edge) // 2 first; Hugging Face rounds up instead.
  @parameterized.parameters((9, 0, 1), (8, 1, 1), (7, 1, 2), (1, 4, 5))
  def test_padding(self, edge, rounded, floored):
    image = _coordinates(edge, 20)
    for offset, first in (("round", rounded), ("floor", floored)):
      expected = np.zeros((10, 10, 3), np.uint8)
      expected[first:first + edge] = image[:, 5:15]
      view = views.clean_view(image, resize=(edge, 20), crop=10, offset=offset)
      np.testing.assert_array_equal(view, expected)

  # 16 * 47 / 31 = 24.26 and 16 * 31 / 16 = 31, rounded down.
  @parameterized.parameters(
      (31, 47, (16, 24)), (47, 31, (24, 16)), (16, 31, (16, 31)),
      (20, 20, (16, 16)),
  )
  def test_shorter_edge(self, height, width, exact):
    image = _image(height, width)
    np.testing.assert_array_equal(
        views.clean_view(image, resize=16, crop=24),
        views.clean_view(image, resize=exact, crop=24),
    )

  def test_flat_colour_stays_flat(self):
    image = np.full((33, 21, 3), (1, 128, 254), np.uint8)
    for resample in ("nearest", "bilinear", "bicubic", "lanczos"):
      view = views.clean_view(image, resize=24, crop=24, resample=resample)
      np.testing.assert_array_equal(view, np.tile(image[0, 0], (24, 24, 1)))

  @parameterized.named_parameters(
      ("filter", dict(resample="cubic"), "'cubic'; choose from: .*bicubic"),
      ("offset", dict(offset="ceil"), "'ceil'; choose from: floor, round"),
      ("crop", dict(crop=0), "at least 1 pixel, got 0"),
      ("resize", dict(resize=0), "cannot resize to 0 by 0 pixels"),
      ("float", dict(image=np.zeros((4, 4, 3))), r"\[h w 3\], got float64"),
      ("flat", dict(image=np.zeros((4, 4), np.uint8)), r"got uint8 \[4, 4\]"),
      ("none", dict(image=np.zeros((0, 4, 3), np.uint8)), r"\[0, 4, 3\]"),
      ("list", dict(image=[[0]]), "got list"),
  )
  def test_refuses(self, changes, message):
    arguments = dict(image=_image(), resize=8, crop=8) | changes
    with self.assertRaisesRegex(ValueError, message):
      views.clean_view(**arguments)

  def test_hugging_face_processor(self):
    pytest.importorskip("transformers")
    processor_class = _pillow_processor()
    generator = np.random.default_rng(0)
    for size, crop in ((32, 32), (24, 20), (20, 27)):
      processor = processor_class(
          size={"shortest_edge": size},
          crop_size={"height": crop, "width": crop},
          do_rescale=False,
          do_normalize=False,
      )
      for height, width in generator.integers(10, 90, size=(40, 2)):
        image = _image(height, width, seed=height)
        expected = processor(
            image, return_tensors="np", input_data_format="channels_last"
        )["pixel_values"][0]
        view = views.clean_view(image, resize=size, crop=crop, offset="floor")
        np.testing.assert_array_equal(
            view, expected.transpose(1, 2, 0), f"{height=} {width=} {crop=}"
        )


def _pillow_processor():
  """The processor that resizes with Pillow, under its name of the day."""
  try:
    from transformers.models.clip import image_processing_pil_clip
    return image_processing_pil_clip.CLIPImageProcessorPil
  except ImportError:  # transformers 4
    import transformers
    return transformers.CLIPImageProcessor


class RandomBoxTest(parameterized.TestCase):

  def boxes(self, height, width, count=4000, **ranges):
    rng = np.random.default_rng(1)
    found = [
        views.random_box(rng, height, width, **ranges) for _ in range(count)
    ]
    return np.array(found).T

  @parameterized.parameters((600, 600), (300, 600), (700, 500), (37, 53))
  def test_boxes_lie_inside_and_in_the_ranges(self, height, width):
    top, left, box_height, box_width = self.boxes(height, width, 1000)
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

  def test_against_another_sampler(self):
    # From the other end: log sides are drawn uniformly, the ranges are checked
    # afterwards, and boxes are kept in proportion to their area, because
    # d(area) d(log ratio) = 2 area d(log width) d(log height).
    rng = np.random.default_rng(2)
    log_sides = rng.uniform(math.log(0.2), 0, size=(400000, 2))
    area = np.exp(log_sides.sum(axis=1))
    log_ratio = log_sides[:, 0] - log_sides[:, 1]
    fits = (area >= 0.08) & (np.abs(log_ratio) <= math.log(4 / 3))
    kept = fits & (rng.random(400000) < area)
    _, _, height, width = self.boxes(2000, 2000)
    for index, side in enumerate((width, height)):
      expected = np.exp(log_sides[kept, index])
      self.assertGreater(stats.ks_2samp(side / 2000, expected).pvalue, 0.01)

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
    for seed in range(20):
      rng = np.random.default_rng(seed)
      self.assertEqual(views.random_box(rng, height, width), expected)

  def test_ten_tries(self):
    # An image of 100 x 200: ratio 1 and area 0.9 do not fit, area 0.5 does.
    misses = [0.9, 0.0]
    rng = mock.Mock()
    rng.integers.return_value = 42
    rng.uniform.side_effect = misses * 9 + [0.5, 0.0]
    self.assertEqual(views.random_box(rng, 100, 200), (42, 42, 100, 100))
    rng.uniform.side_effect = misses * 10
    self.assertEqual(views.random_box(rng, 100, 200), (0, 33, 100, 133))

  def test_centred_whole_image_if_its_ratio_is_allowed(self):
    rng = mock.Mock()
    rng.uniform.side_effect = [1.0, math.log(4 / 3)] * 10
    self.assertEqual(views.random_box(rng, 100, 100), (0, 0, 100, 100))

  @parameterized.parameters(
      (dict(area=(0.0, 1.0)), "area="), (dict(area=(0.5, 0.4)), "area="),
      (dict(area=(0.5, 1.1)), "area="), (dict(ratio=(0.0, 1.0)), "ratio="),
      (dict(ratio=(2.0, 1.0)), "ratio="),
  )
  def test_refuses(self, ranges, message):
    with self.assertRaisesRegex(ValueError, "expected 0 < low.*" + message):
      views.random_box(np.random.default_rng(0), 9, 9, **ranges)


class CropResizedTest(parameterized.TestCase):

  @parameterized.parameters("bilinear", "bicubic", "lanczos")
  def test_no_pixel_outside_the_box_has_a_say(self, resample):
    image = np.full((60, 60, 3), 255, np.uint8)
    image[20:37, 11:40] = 3
    box = views.Box(20, 11, 17, 29)
    for size in (8, 64):
      crop = views.crop_resized(image, box, size, resample=resample)
      np.testing.assert_array_equal(crop, np.full((size, size, 3), 3))

  def test_box_of_the_views_own_size_is_copied(self):
    image = _image()
    crop = views.crop_resized(image, views.Box(3, 5, 16, 16), 16)
    np.testing.assert_array_equal(crop, image[3:19, 5:21])

  @parameterized.parameters(
      ((-1, 0, 5, 5),), ((0, 0, 41, 5),), ((0, 46, 5, 5),), ((0, 0, 0, 5),)
  )
  def test_refuses_boxes_that_leave_the_image(self, box):
    with self.assertRaisesRegex(ValueError, "not inside the image of 40 by 50"):
      views.crop_resized(_image(), views.Box(*box), 8)


class RandomViewTest(parameterized.TestCase):

  def test_mirrored_half_of_the_time(self):
    image = _coordinates(20, 30)
    mirrored = 0
    for seed in range(1000):
      rng = np.random.default_rng(seed)
      view = views.random_view(rng, image, size=4)
      mirrored += view[0, 0, 1] > view[0, -1, 1]
    # Four standard deviations of a fair coin.
    self.assertBetween(mirrored, 500 - 64, 500 + 64)

  def test_mirroring_and_nothing_else(self):
    for seed in range(10):
      plain, mirrored = (
          views.random_view(
              np.random.default_rng(seed), _image(), size=8, flip_probability=p
          ) for p in (0.0, 1.0)
      )
      np.testing.assert_array_equal(plain[:, ::-1], mirrored)


class MakeViewsTest(parameterized.TestCase):

  def make(self, image_id="ant/a.jpg", seed=0, num_views=6, **changes):
    arguments = dict(resize=16, crop=16) | changes
    return views.make_views(
        _image(), image_id, seed=seed, num_views=num_views, **arguments
    )

  def test_clean_view_first(self):
    made = self.make()
    self.assertEqual(made.shape, (6, 16, 16, 3))
    self.assertEqual(made.dtype, np.uint8)
    np.testing.assert_array_equal(
        made[0], views.clean_view(_image(), resize=16, crop=16)
    )

  def test_a_view_does_not_depend_on_how_many_there_are(self):
    many = self.make(num_views=20)
    for num_views in (1, 2, 9):
      np.testing.assert_array_equal(
          self.make(num_views=num_views), many[:num_views]
      )

  def test_repeatable_and_different(self):
    first = self.make()
    np.testing.assert_array_equal(first, self.make())
    for other in (self.make(seed=1), self.make(image_id="ant/b.jpg")):
      np.testing.assert_array_equal(first[0], other[0])
      for view in range(1, 6):
        self.assertFalse(np.array_equal(first[view], other[view]))
    for view in range(2, 6):
      self.assertFalse(np.array_equal(first[1], first[view]))

  def test_options_reach_the_views(self):
    whole = self.make(
        area=(1.0, 1.0), ratio=(1.25, 1.25), flip_probability=0.0,
        random_resample="bicubic", resample="bicubic", resize=(16, 16),
    )
    for view in whole[1:]:
      np.testing.assert_array_equal(view, whole[0])

  def test_refuses_no_views(self):
    with self.assertRaisesRegex(ValueError, "at least 1 view, got num_views=0"):
      self.make(num_views=0)


class ViewRngTest(absltest.TestCase):

  def test_every_part_of_the_name_counts(self):
    draws = {
        views.view_rng(*name).random()
        for name in ((0, "a", 1), (1, "a", 1), (0, "b", 1), (0, "a", 2),
                     (0, "1/a", 1), (11, "a", 1), (1, "1/a", 1))
    }
    self.assertLen(draws, 7)

  def test_the_same_everywhere(self):
    # Stored views are only worth keeping while these numbers stand.
    first = views.view_rng(0, "ant/a.jpg", 1)
    self.assertEqual(first.integers(2**32), 2748313332)
    second = views.view_rng(7, "käfer", 63)
    self.assertEqual(second.integers(2**32), 2829353090)

  def test_file_names_that_are_not_utf8(self):
    views.view_rng(0, "a\udcff.jpg", 1)


class PhotosTest(absltest.TestCase):

  def test_views_of_real_photos(self):
    image_set = sources.image_folder(shared.folder("data/photos"))
    for position in range(0, 38, 3):
      photo = image_set.read(position)
      made = views.make_views(
          photo, image_set.ids[position], seed=0, num_views=8, resize=64,
          crop=64,
      ).astype(float)
      # Every view shows much the same colours as the photo that it is part of.
      distance = made.mean(axis=(1, 2)) - photo.mean(axis=(0, 1))[None]
      self.assertLess(np.abs(distance).max(), 60)
      self.assertLess(np.abs(distance[0]).max(), 1.5)
      self.assertGreater(made.std(), 5)


if __name__ == "__main__":
  absltest.main()
