"""Corruptions against the reference packages, against rules, and in sets."""

from concurrent import futures
import io
import pathlib
import re

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np
from PIL import Image
import pytest

from jaxcal.data import contents
from jaxcal.data import corruptions
from jaxcal.data import corruptions_on_device as on_device
from jaxcal.data import corruptions_on_host as on_host
from jaxcal.data import image_set as image_sets
from jaxcal.data import load
from jaxcal.features import store as stores
from tests import shared
from tests.data import corruption_numbers
from tests.data import miniatures

_Corruption = corruptions.Corruption
_PACKAGES = {"elastic_inet": "imagenet_c", "elastic_ic": "imagecorruptions"}
# Share of the values that may differ from the reference, and by how much. The
# reference truncates numbers of float64 that are whole but for rounding, which
# float32 rounds otherwise; JPEG depends on the codec.
_SHARES = {"saturate": 0.25, "brightness": 0.15, "jpeg_compression": 1}
_SHARE = 0.08
_MOST = {"jpeg_compression": 10}


def _reference(name):
  """(severity, shape, values) of a corruption in the stored numbers."""
  file = shared.arrays(corruption_numbers.PATH)
  theirs = "elastic_transform" if name in _PACKAGES else name
  for key, values in zip(file["names"].tolist(), file["values"]):
    package, one, severity, shape = key.split("/")
    if one == theirs and _PACKAGES.get(name, package) == package:
      yield int(severity), tuple(map(int, shape.split("x"))), values


def _draws(name, image, severity):
  """What the reference draws from numpy's generator, in its order."""
  generator, shape = np.random.RandomState(severity), image.shape
  signed = lambda *shape: np.float32(generator.uniform(-1, 1, shape))
  if name in ("gaussian_noise", "speckle_noise"):
    return np.float32(generator.normal(size=shape))
  if name == "shot_noise":
    return np.int32(generator.poisson(np.float64(
        on_device.photons(image, severity))))
  if name == "impulse_noise":
    return np.float32([generator.random_sample(shape) for _ in range(2)])
  if name == "fog":
    doublings = (max(shape) - 1).bit_length()
    return tuple(np.stack([signed(2**i, 2**i) for _ in range(3)])
                 for i in range(doublings))
  if name == "elastic_inet":
    return signed(3, 2), signed(2, *shape[:2])
  if name == "elastic_ic":
    return signed(2, *shape[:2])
  if name == "glass_blur":
    reach, rounds = {1: (1, 2), 2: (2, 1), 3: (2, 3), 4: (3, 2),
                     5: (4, 2)}[severity]
    inner = [side - 2 * reach for side in shape[:2]]
    return generator.randint(-reach, reach, (rounds, *inner, 2))
  if name == "motion_blur":
    return generator.uniform(-45, 45)
  if name == "snow":
    return generator.normal(size=shape[:2]), generator.uniform(-135, -45)
  if name == "spatter":
    return generator.normal(size=shape[:2])
  if name == "frost":
    generator.randint(5)
    ice = corruption_numbers.frost_picture()
    top, left = (generator.randint(0, ice.shape[axis] - shape[axis])
                 for axis in (0, 1))
    return ice[top:top + shape[0], left:left + shape[1]]
  return None


def _make(name, image, draws, severity):
  """The corrupted image, by the pure part of a corruption."""
  if name in on_host.CORRUPTIONS:
    return on_host.CORRUPTIONS[name].make(image, draws, severity)
  return np.asarray(on_device.CORRUPTIONS[name].make(image, draws, severity))


class ReferenceTest(parameterized.TestCase):

  @parameterized.parameters(*corruptions.NAMES)
  def test_values_of_the_packages(self, name):
    compared = 0
    for severity, shape, values in _reference(name):
      if name in on_device.CORRUPTIONS and shape == (48, 80) and severity == 4:
        continue  # spares the time to compile
      image = corruption_numbers.picture(*shape)
      made = _make(name, image, _draws(name, image, severity), severity)
      made = made.reshape(-1)[corruption_numbers.places(*shape)]
      difference = np.abs(made.astype(int) - values)
      of = f"{name} {severity} at {shape}"
      self.assertLessEqual(difference.max(), _MOST.get(name, 1), of)
      self.assertLessEqual(
          (difference > 0).mean(), _SHARES.get(name, _SHARE), of)
      self.assertTrue(np.any(
          values != image.reshape(-1)[corruption_numbers.places(*shape)]), of)
      compared += 1
    self.assertGreaterEqual(compared, 4)

  def test_glass_shows_what_one_loop_over_the_pixels_does(self):
    reach, rounds = 2, 3
    image = corruption_numbers.picture(16, 24)
    shifts = np.random.default_rng(0).integers(
        -reach, reach, (rounds, 12, 20, 2))
    shown = on_host._truncated(on_host._smoothed(image / 255, 1))
    for one in shifts:
      rows = range(16 - reach, reach, -1)
      columns = range(24 - reach, reach, -1)
      for row, line in zip(rows, one):
        for column, (right, down) in zip(columns, line):
          shown[row, column] = shown[row + down, column + right]
    np.testing.assert_array_equal(
        on_host.glass_blur(image, shifts, 3),
        on_host._truncated(on_host._smoothed(shown / 255, 1)))

  @parameterized.parameters(1, 2, 3, 4, 5)
  def test_pillow_pixelates_alike(self, severity):
    image = corruption_numbers.picture(56, 88)
    share = (0.6, 0.5, 0.4, 0.3, 0.25)[severity - 1]
    expected = Image.fromarray(image).resize(
        (int(88 * share), int(56 * share)), Image.Resampling.BOX).resize(
            (88, 56), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(
        _make("pixelate", image, None, severity), np.asarray(expected))

  def test_jpeg_is_that_of_this_pillow(self):
    image = corruption_numbers.picture(48, 80)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=7)
    np.testing.assert_array_equal(
        on_host.jpeg_compression(image, None, 5),
        np.asarray(Image.open(file)))

  def test_grey_is_red_without_saturation(self):
    grey = np.full((2, 2, 3), 100, np.uint8)
    made = np.asarray(on_device.saturate(grey, None, 5))
    np.testing.assert_array_equal(made[0, 0], [100, 80, 80])


class RandomnessTest(parameterized.TestCase):
  """On plain grey, so that the draws can be told from the outcome."""

  def _changes(self, name, severity, value):
    grey = np.full((200, 200, 3), value, np.uint8)
    made = corruptions.corrupt(
        grey, _Corruption(name, severity, of="image"), "one.png")
    return made.astype(float) - value

  def test_noise_has_its_mean_and_deviation(self):
    # Truncating takes half a step and adds the variance of a uniform number.
    for name, deviation in (("gaussian_noise", 0.08 * 255),
                            ("speckle_noise", 0.15 * 128)):
      changes = self._changes(name, 1, 128)
      error = deviation / np.sqrt(changes.size)
      self.assertLess(abs(changes.mean() + 0.5), 4 * error, name)
      self.assertLess(abs(changes.std() - deviation), 4 * error, name)

  def test_photons_vary_as_their_mean(self):
    changes = self._changes("shot_noise", 1, 128)
    mean = 60 * 128 / 255
    error = 255 / 60 * np.sqrt(mean / changes.size)
    self.assertLess(abs(changes.mean() + 0.5), 4 * error + 0.5)
    # A Poisson number's variance is its mean, known to 2 / n of its square.
    variance = changes.var() * (60 / 255)**2
    self.assertLess(abs(variance - mean), 5 * mean * np.sqrt(
        2 / changes.size) + 0.05)

  def test_impulses_are_as_many_and_half_of_them_white(self):
    changes = self._changes("impulse_noise", 5, 128)
    changed = changes != 0
    share = 0.27
    self.assertLess(abs(changed.mean() - share), 4 * np.sqrt(
        share * (1 - share) / changes.size))
    white = (changes[changed] > 0).mean()
    self.assertLess(abs(white - 0.5), 4 * 0.5 / np.sqrt(changed.sum()))
    self.assertEqual(set(np.unique(changes)), {-128, 0, 127})

  @parameterized.parameters(
      "gaussian_noise", "shot_noise", "fog", "elastic_inet", "glass_blur",
      "motion_blur", "snow", "spatter")
  def test_draws_go_by_seed_and_id_alone(self, name):
    image = corruption_numbers.picture(40, 48)
    of = lambda image_id, **changes: corruptions.corrupt(
        image, _Corruption(name, 3, of="image", **changes), image_id)
    np.testing.assert_array_equal(of("a/1.png"), of("a/1.png"))
    self.assertTrue(np.any(of("a/1.png") != of("a/2.png")))
    self.assertTrue(np.any(of("a/1.png") != of("a/1.png", seed=1)))


class ShapesTest(parameterized.TestCase):

  @parameterized.parameters(*corruptions.NAMES)
  def test_a_single_pixel(self, name):
    self._assert_corrupted(name, (1, 1))

  @parameterized.product(name=corruptions.NAMES, shape=((3, 50), (37, 19)))
  @pytest.mark.slow
  def test_any_size(self, name, shape):
    self._assert_corrupted(name, shape)

  def _assert_corrupted(self, name, shape):
    noise = np.random.default_rng(0).integers(
        0, 256, (*shape, 3), dtype=np.uint8)
    made = corruptions.corrupt(
        noise, _Corruption(name, 4, of="image"), "1.png",
        pictures=(corruption_numbers.picture(16, 32),))
    self.assertEqual((made.dtype, made.shape), (np.uint8, noise.shape))

  def test_what_is_corrupted_is_what_torchvision_cuts_out(self):
    image = np.random.default_rng(0).integers(
        0, 256, (301, 413, 3), dtype=np.uint8)
    resized = Image.fromarray(image).resize(
        (int(256 * 413 / 301), 256), Image.Resampling.BILINEAR)
    left, top = (round((side - 224) / 2) for side in resized.size)
    expected = resized.crop((left, top, left + 224, top + 224))
    np.testing.assert_array_equal(
        corruptions.central_crop(image), np.asarray(expected))
    made = corruptions.corrupt(image, _Corruption("contrast", 1), "1.png")
    np.testing.assert_array_equal(
        made, _make("contrast", np.asarray(expected), None, 1))

  @pytest.mark.slow
  def test_images_side_by_side_are_as_alone(self):
    images = np.stack([corruption_numbers.picture(24, 32)[::step]
                       for step in (1, -1)])
    keys = jax.random.split(jax.random.key(0), 2)
    for name in ("gaussian_noise", "fog", "elastic_inet"):
      together = jax.vmap(on_device.corrupt, (None, 0, 0, None))(
          name, images, keys, 3)
      for image, key, made in zip(images, keys, together):
        alone = on_device.corrupt(name, image, key, 3)
        difference = np.abs(np.int32(made) - np.int32(alone))
        self.assertLessEqual(difference.max(), 1)
        self.assertLess((difference > 0).mean(), 0.01)


class SetsTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.create_tempdir())
    for number in range(2):
      for folder in ("cat", "dog"):
        miniatures.picture(
            self.root / "pets" / folder / f"{number}.png", number)
    self.folder = self.root / "pets"

  def test_images_are_corrupted_as_they_are_read(self):
    plain = load.images(self.folder)
    made = load.images(self.folder, corruption=_Corruption("fog", 2))
    self.assertEqual((made.name, made.ids), (plain.name, plain.ids))
    # Threads, order and what was read before have no influence.
    with futures.ThreadPoolExecutor(3) as pool:
      found = list(pool.map(made.read, [3, 2, 1, 0]))[::-1]
    for position, image in enumerate(found):
      np.testing.assert_array_equal(image, corruptions.corrupt(
          plain.read(position), _Corruption("fog", 2), plain.ids[position]))
    # Two of the pictures are the same, but not their fog.
    np.testing.assert_array_equal(plain.read(0), plain.read(2))
    self.assertTrue(np.any(found[0] != found[2]))
    taken = image_sets.take(made, [2])
    np.testing.assert_array_equal(taken.read(0), found[2])

  def test_a_share_is_chosen_by_seed_and_id_alone(self):
    plain = load.images(self.folder)
    fog = _Corruption("fog", 2, seed=1, share=0.5)
    made = load.images(self.folder, corruption=fog)
    whole = load.images(self.folder, corruption=fog._replace(share=1.0))
    chosen = [corruptions.is_corrupted(one, fog) for one in plain.ids]
    self.assertLen(set(chosen), 2)
    for position, corrupted in enumerate(chosen):
      np.testing.assert_array_equal(
          made.read(position), (whole if corrupted else plain).read(position))
    # Nor do other images, their order or their number.
    taken = image_sets.take(made, [3, 0])
    for position, own in enumerate([3, 0]):
      np.testing.assert_array_equal(taken.read(position), made.read(own))

  def test_a_higher_share_corrupts_further_images(self):
    ids = [f"{number}.png" for number in range(2000)]
    before = set()
    for share in (0.1, 0.5, 0.9, 1.0):
      fog = _Corruption("fog", 2, share=share)
      of = lambda corruption: {
          one for one in ids if corruptions.is_corrupted(one, corruption)}
      found = of(fog)
      self.assertAlmostEqual(len(found) / len(ids), share, delta=0.04)
      self.assertLess(before, found)
      self.assertEqual(found, of(fog._replace(name="snow", severity=5)))
      if share < 1:
        self.assertNotEqual(found, of(fog._replace(seed=1)))
      before = found
    self.assertLen(before, len(ids))

  def test_identity_says_the_corruption(self):
    plain = contents.identity_of(load.images(self.folder))
    asked = [_Corruption("fog", 2), _Corruption("fog", 3),
             _Corruption("snow", 2), _Corruption("fog", 2, seed=1),
             _Corruption("fog", 2, of="image"),
             _Corruption("fog", 2, share=0.5)]
    found = [contents.identity_of(load.images(self.folder, corruption=one))
             for one in asked]
    for one in found:
      self.assertEqual(plain | one, one)
    self.assertLen({repr(one) for one in (plain, *found)}, len(asked) + 1)
    self.assertEqual(
        found[0]["data.corruption"], "fog")
    self.assertEqual(found[0]["data.severity"], 2)
    self.assertNotIn("stream.corrupted_share", found[0])

  def test_validation_that_shares_images_with_a_corrupted_set_is_refused(self):
    with self.assertRaisesRegex(ValueError, "4 images of pets are in"):
      image_sets.check_apart(
          load.images(self.folder, corruption=_Corruption("fog", 2)),
          load.images(self.folder), split="validation")

  @parameterized.parameters(
      (_Corruption("frogs", 1), "unknown corruption 'frogs'.*fog"),
      (_Corruption("elastic_transform", 1), "elastic_inet.*elastic_ic"),
      (_Corruption("fog", 6), "severity of fog is 6, expected.*1 to 5"),
      (_Corruption("fog", 1, of="views"), "'views', expected 'crop' or"),
      (_Corruption("fog", 1, share=0.0), "is 0.0, expected one in \\(0, 1"),
      (_Corruption("fog", 1, share=1.5), "is 1.5, expected one in \\(0, 1"),
      (_Corruption("frost", 1), "needs pictures of ice.*frost_pictures"))
  def test_what_cannot_be_done_is_refused_before_an_image_is_read(
      self, corruption, message):
    with self.assertRaisesRegex(ValueError, f"(?s){message}"):
      load.images(self.folder, corruption=corruption)

  def test_images_that_are_corrupted_already(self):
    once = load.images(self.folder, corruption=_Corruption("fog", 2))
    with self.assertRaisesRegex(ValueError, "corrupted already.*fog"):
      corruptions.corrupted(once, _Corruption("snow", 2))

  def test_frost_is_of_the_pictures_in_a_folder(self):
    ice = self.root / "ice"
    frost = _Corruption("frost", 5, pictures=ice)
    with self.assertRaisesRegex(FileNotFoundError, re.escape(str(ice))):
      load.images(self.folder, corruption=frost)
    ice.mkdir()
    with self.assertRaisesRegex(ValueError, "has no pictures for frost"):
      load.images(self.folder, corruption=frost)
    Image.new("RGB", (30, 20), (200, 200, 200)).save(ice / "1.png")
    white = load.images(self.folder, corruption=frost)
    clean = corruptions.central_crop(load.images(self.folder).read(0))
    np.testing.assert_array_equal(
        white.read(0), np.minimum(0.6 * clean + 0.75 * 200, 255).astype(
            np.uint8))
    Image.new("RGB", (30, 20), (10, 20, 30)).save(ice / "1.png")
    dark = load.images(self.folder, corruption=frost)
    self.assertNotEqual(contents.identity_of(dark),
                        contents.identity_of(white))

  def test_a_store_is_of_one_corruption(self):
    fog = load.images(self.folder, corruption=_Corruption("fog", 2))
    store = self._store(fog)
    self.assertEqual(store.manifest.corruption, fog.corruption)
    given = {"store": self.root / "stores"}
    found = load.images("pets", corruption=_Corruption("fog", 2), **given)
    self.assertEqual(
        load.identity_of(found, store=given["store"])["data.severity"], 2)
    for asked, message in (
        (_Corruption("fog", 3), "severity 2, not 3"),
        (_Corruption("snow", 2), "corruption 'fog', not 'snow'"),
        (_Corruption("fog", 2, seed=4), "corruption_seed 0, not 4"),
        (_Corruption("fog", 2, share=0.5), "corrupted_share 1.0, not 0.5"),
        (None, "corruption 'fog', not None")):
      with self.assertRaisesRegex(ValueError, message):
        load.images("pets", corruption=asked, **given)
    with self.assertRaisesRegex(ValueError, "corruption: stored {'data.cor"):
      self._store(load.images(self.folder))

  def test_a_store_of_a_share(self):
    some = _Corruption("fog", 2, share=0.5)
    self._store(load.images(self.folder, corruption=some))
    given = {"store": self.root / "stores"}
    found = load.images("pets", corruption=some, **given)
    self.assertEqual(load.identity_of(found, store=given["store"])[
        "stream.corrupted_share"], 0.5)
    with self.assertRaisesRegex(ValueError, "corrupted_share 0.5, not 1.0"):
      load.images("pets", corruption=some._replace(share=1.0), **given)

  def test_a_store_of_images_as_they_were_taken(self):
    store = self._store(load.images(self.folder))
    # As an earlier version wrote it.
    manifest = store.folder / "manifest.json"
    lines = [line for line in manifest.read_text().splitlines()
             if '"corruption"' not in line]
    manifest.write_text("\n".join(lines))
    given = {"store": self.root / "stores"}
    self.assertIsNone(load.images("pets", **given).corruption)
    with self.assertRaisesRegex(ValueError, "corruption None, not 'fog'"):
      load.images("pets", corruption=_Corruption("fog", 2), **given)

  def _store(self, images):
    return stores.create(
        self.root / "stores" / "pets", stores.Manifest(
            model="tiny", model_fingerprint="ab", data=images.name,
            data_fingerprint=stores.data_fingerprint(images), views={}, seed=0,
            image_dtype="highest", num_images=len(images.ids), num_views=1,
            feature_size=4, pooled_size=5, corruption=images.corruption,
            contents_fingerprint=contents.identity_of(images)[
                "data.contents"]), images)


class PublishedTest(parameterized.TestCase):
  """ImageNet-C as its archives have it: a part of it."""

  @parameterized.parameters(
      ("fog", "imagenet-c/fog/3"),
      ("fog", "ImageNet-C/weather/fog/3"),
      ("elastic_inet", "imagenet-c/digital/elastic_transform/3"),
      ("spatter", "imagenet_c/extra/spatter/3"))
  def test_folders(self, name, folder):
    root = pathlib.Path(self.create_tempdir())
    miniatures.picture(root / folder / "n01440764" / "1.JPEG", 1)
    miniatures.picture(root / folder / "n01443537" / "2.JPEG", 2)
    images = load.images("imagenet_c", root=root, partial=True,
                         corruption=_Corruption(name, 3))
    self.assertEqual(images.ids, ("n01440764/1.JPEG", "n01443537/2.JPEG"))
    self.assertEqual((images.name, list(images.labels)), ("imagenet_c", [0, 1]))
    # Not corrupted once more.
    self.assertEqual(images.read(0).shape, (40, 40, 3))
    found = contents.identity_of(images)
    self.assertEqual((found["data.corruption"], found["data.severity"],
                      found["data.corruption_of"]), (name, 3, "files"))
    with self.assertRaisesRegex(FileNotFoundError, f"{name[:7]}.*/4"):
      load.images("imagenet_c", root=root, partial=True,
                  corruption=_Corruption(name, 4))
    with self.assertRaisesRegex(ValueError, "imagenet_c are all corrupted"):
      load.images("imagenet_c", root=root, partial=True,
                  corruption=_Corruption(name, 3, share=0.5))

  @parameterized.parameters((None,), (_Corruption("elastic_ic", 1),))
  @pytest.mark.slow
  def test_it_has_a_folder_for_each_corruption(self, corruption):
    with self.assertRaisesRegex(
        ValueError, "folder for each corruption.*gaussian_noise"):
      load.images("imagenet_c", root="/", corruption=corruption)


if __name__ == "__main__":
  absltest.main()
