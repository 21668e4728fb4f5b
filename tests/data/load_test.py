"""Names and paths become image sets; none is taken for another in silence."""

import contextlib
import os
import pathlib
import tarfile
from unittest import mock

from absl import logging
from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from PIL import Image

from jaxcal.data import catalogue
from jaxcal.data import contents
from jaxcal.data import load
from jaxcal.data import tfds
from jaxcal.features import store as stores
from jaxcal.testbed import pairs as testbed_pairs
from jaxcal.testbed import sets as testbed_sets


def _folder(path, names=("cat", "dog"), count=2):
  """A picture of its own for every class and number."""
  rng = np.random.default_rng(len(str(path)))
  for name in names:
    (path / name).mkdir(parents=True, exist_ok=True)
    for number in range(count):
      Image.fromarray(rng.integers(0, 256, (6, 5, 3), np.uint8)).save(
          path / name / f"{number}.png")
  return path


class _InAFolder(parameterized.TestCase):
  """Every test runs in an empty folder, which is the home folder, too."""

  def setUp(self):
    super().setUp()
    self.here = pathlib.Path(self.create_tempdir().full_path)
    self.enter_context(contextlib.chdir(self.here))
    self.enter_context(mock.patch.dict(os.environ, {"HOME": str(self.here)}))

  def _words(self, *names, **options):
    """The images, and what was logged about them."""
    with self.assertLogs("absl", "WARNING") as logs:
      logging.warning("first")  # there must be one
      found = load.images(*names, **options)
    return found, "\n".join(logs.output[1:])


class ImagesTest(_InAFolder):

  def test_a_shipped_set(self):
    found = load.images("digits", split="validation", limit=7)
    self.assertEqual(found.name, "digits")
    whole = testbed_sets.load("digits", split="validation")
    self.assertLen(found.ids, 7)
    self.assertContainsSubset(found.ids, whole.ids)

  def test_a_benchmark_set(self):
    (self.here / "eurosat").mkdir()
    with mock.patch.object(catalogue, "load", autospec=True) as read:
      read.return_value = testbed_sets.load("digits")
      load.images("eurosat", root="~/sets", split="val", source="tfds",
                  partial=True)
    read.assert_called_once_with(
        "eurosat", f"{self.here}/sets", split="val", source="tfds",
        partial=True, corruption=None)
    with self.assertRaisesRegex(
        ValueError, r"eurosat is a benchmark set: name the folder that holds "
        r"it \(root, --config.data.root\), or write ./eurosat for a folder"):
      load.images("eurosat")

  @parameterized.parameters(
      "photos", "my images", "photos, 2024", "caf\u00e9", "(new)", "[v2]", "3",
      "tom's images", "50%_{off}")
  def test_a_folder(self, name):
    _folder(self.here / name)
    looked_at = []
    for given in (name, f"./{name}", f"{self.here}/{name}/", f"~/{name}",
                  pathlib.Path(name)):
      found = load.images(
          given, progress=lambda *numbers: looked_at.append(numbers))
      self.assertEqual(found.name, name)
      self.assertEqual(found.class_names, ("cat", "dog"))
      self.assertEqual(found.read(3).shape, (6, 5, 3))
      self.assertEqual(load.name_of(given), name)
    self.assertEqual(looked_at[:4], [(1, 4), (2, 4), (3, 4), (4, 4)])

  def test_dots_are_called_after_the_folder(self):
    _folder(self.here / "more/images")
    for inside, name in (("more/images", "."), ("more/images/cat", ".."),
                         ("more", "images/cat/.."), ("more", "images/.")):
      with contextlib.chdir(self.here / inside):
        self.assertEqual(load.images(name).name, "images")
        self.assertEqual(load.name_of(name), "images")

  def test_a_link_has_its_own_name(self):
    _folder(self.here / "images_v2")
    (self.here / "current").symlink_to("images_v2")
    self.assertEqual(load.images("current").name, "current")

  def test_a_list(self):
    _folder(self.here / "images")
    (self.here / "some.csv").write_text(
        "path,label\nimages/cat/0.png,one\nimages/dog/1.png,two\n")
    (self.here / "names.txt").write_text("two\none\n")
    self.assertEqual(load.images("some.csv").class_names, ("one", "two"))
    (self.here / "upper.CSV").write_bytes(
        (self.here / "some.csv").read_text().encode("utf-16"))
    self.assertEqual(load.images("upper.CSV").class_names, ("one", "two"))
    self.assertEqual(load.name_of("upper.CSV"), "upper")
    found = load.images("~/some.csv", class_names="~/names.txt", limit=1)
    self.assertEqual((found.name, found.class_names, found.ids),
                     ("some", ("two", "one"), ("images/dog/1.png",)))
    (self.here / "names.txt").write_text("cat\ttwo\ndog\tone\n")
    with self.assertRaisesRegex(ValueError, "names.txt names class folders, "):
      load.images("some.csv", class_names="names.txt")

  def test_halves_of_the_classes(self):
    _folder(self.here / "images", ("a", "b", "c"))
    self.assertEqual(
        load.images("images", classes="base").class_names, ("a", "b"))
    self.assertEqual(load.images("images", classes="new").class_names, ("c",))
    with self.assertRaisesRegex(ValueError, "choose from: all, base, new"):
      load.images("images", classes="old")

  @parameterized.parameters(
      ("digit", r"unknown image set 'digit'.* did you mean digits"),
      ("oxford_pet", "did you mean oxford_pets"),
      ("no/such", "unknown image set 'no/such': no folder and no .csv, "),
      ("no.csv", "no file no.csv"), ("~nobody_at_all/x", "'~nobody_at_all/x'"))
  def test_what_is_not_there(self, name, message):
    with self.assertRaisesRegex((ValueError, FileNotFoundError), message):
      load.images(name)

  def test_images_that_are_not_asked_for_are_not_looked_at(self):
    (_folder(self.here / "images") / "dog/1.png").write_bytes(b"GIF8")
    self.assertLen(load.images("images", limit=2).ids, 2)
    self.assertLen(load.images("images", classes="base").ids, 2)
    self.assertEqual(load.class_names("images"), ("cat", "dog"))

  def test_bad_images_may_be_left_out(self):
    (_folder(self.here / "images") / "cat/0.png").write_bytes(b"GIF8")
    found, said = self._words("images", on_bad_image="skip")
    self.assertEqual(list(found.left_out), ["cat/0.png"])
    self.assertLen(found.ids, 3)
    self.assertIn("images: left out 1 of 4 images", said)
    with self.assertRaisesRegex(ValueError, "choose from: fail, skip"):
      load.images("images", on_bad_image="ignore")

  def test_benchmark_sets_are_looked_at_too(self):
    own = load.images(_folder(self.here / "images"))
    (self.here / "images/cat/0.png").write_bytes(b"GIF8")
    with mock.patch.object(catalogue, "load", autospec=True) as read:
      read.return_value = own
      with self.assertRaisesRegex(ValueError, "1 of 4 files of 'images'"):
        load.images("eurosat", root=".")
      self.assertLen(
          load.images("eurosat", root=".", on_bad_image="skip").ids, 3)

  def test_a_file_that_is_no_image(self):
    (_folder(self.here / "images") / "cat/0.png").write_bytes(b"GIF8")
    with self.assertRaisesRegex(ValueError, "1 of 4 files of 'images'"):
      load.images("images")


class NamesOfOthersTest(_InAFolder):
  """A folder of one's own that is called like a known set."""

  def test_a_shipped_name_means_the_shipped_set_and_says_so(self):
    _folder(self.here / "digits")
    found, said = self._words("digits", limit=10)
    self.assertLen(found.class_names, 10)
    self.assertRegex(said, "digits is the image set .* ships with jaxcal, not "
                     "the folder here; for the folder write ./digits")
    for own in ("./digits", "~/digits", pathlib.Path("digits")):
      found, said = self._words(own)
      self.assertEqual((found.class_names, said), (("cat", "dog"), ""))

  def test_a_benchmark_name_in_the_folder_that_holds_the_sets(self):
    _folder(self.here / "dtd")
    _folder(self.here / "sets/dtd")
    read = mock.Mock(return_value=testbed_sets.load("digits"))
    self.enter_context(mock.patch.object(catalogue, "load", read))
    self.assertRegex(
        self._words("dtd", root="sets")[1], "dtd is .* a benchmark, not the "
        "folder here; for the folder write ./dtd")
    with contextlib.chdir(self.here / "sets"):  # it is the set's own
      self.assertEqual(self._words("dtd", root="~/sets")[1], "")

  def test_classes_of_one_name(self):
    _folder(self.here / "twins", ("T_shirt", "T shirt", "t shirt", "sock"))
    found, said = self._words("twins")
    self.assertLen(found.class_names, 4)
    self.assertIn("twins: 3 classes are called the same up to case and spaces "
                  "('T shirt', 'T shirt', 't shirt')", said)
    _folder(self.here / "others", ("shirt", "sock"))
    self.assertEqual(self._words("others")[1], "")

  def test_one_class(self):
    _folder(self.here / "alone", ("sock",))
    self.assertIn("alone: the only class is 'sock'", self._words("alone")[1])


class PairsTest(_InAFolder):

  def test_of_the_testbed(self):
    found = load.pairs(num_pairs=3)
    self.assertEqual(found.ids, testbed_pairs.load(3).ids)
    self.assertLen(load.pairs().ids, load.TESTBED_PAIRS)

  def test_tars_and_a_list(self):
    picture = _folder(self.here / "data", ("cat",)) / "cat" / "0.png"
    with tarfile.open(self.here / "0.tar", "w") as tar:
      for number in range(3):
        (self.here / f"{number}.txt").write_text("a cat")
        tar.add(picture, f"{number}.png")
        tar.add(self.here / f"{number}.txt", f"{number}.txt")
    told = []
    found = load.pairs("~/0.tar", num_pairs=2,
                       progress=lambda *numbers: told.append(numbers))
    self.assertEqual(found.ids, ("0.tar/0", "0.tar/1"))
    self.assertEqual(told[-1], (1, 1))
    (self.here / "some.csv").write_text(
        "path,caption\ndata/cat/0.png,a cat\ndata/cat/1.png,a dog\n")
    for path in ("some.csv", self.here / "some.csv"):
      self.assertEqual(load.pairs(path).captions, ("a cat", "a dog"))
      self.assertEqual(load.pairs(path, num_pairs=1).captions, ("a cat",))

  def test_prepared(self):
    with mock.patch.object(tfds, "read_pairs", autospec=True) as read:
      read.return_value = testbed_pairs.load(3)
      found = load.pairs("tfds:coco", root="~/data", split="test", num_pairs=2)
    read.assert_called_once_with(f"{self.here}/data", "coco", split="test")
    self.assertLen(found.ids, 2)
    with self.assertRaisesRegex(ValueError, "needs the folder that holds"):
      load.pairs("tfds:coco")

  def test_what_is_not_there(self):
    with self.assertRaisesRegex(FileNotFoundError, "no tar matches nowhere"):
      load.pairs("nowhere")


class StoreTest(_InAFolder):

  def _store(self, images):
    found = contents.identity_of(images)
    return stores.create(
        self.here / "features" / images.name, stores.Manifest(
            model="tiny", model_fingerprint="ab", data=images.name,
            data_fingerprint=stores.data_fingerprint(images),
            contents_fingerprint=found["data.contents"], views={}, seed=0,
            image_dtype="highest", num_images=len(images.ids), num_views=1,
            feature_size=4, pooled_size=5, dtype="float32", chunk_size=3,
            versions={}), images)

  def test_images_that_are_gone_and_images_that_have_changed(self):
    folder = _folder(self.here / "more/images")
    self._store(load.images("more/images"))
    for name in ("more/images", "images", "elsewhere/images"):
      found = load.images(name, store="~/features", limit=3)
      self.assertEqual((found.name, len(found.ids)), ("images", 3))
      self.assertEqual(load.open_store("features", name).manifest.data,
                       "images")
    with self.assertRaisesRegex(ValueError, "features, not the pixels"):
      found.read(0)
    Image.fromarray(np.zeros((6, 5, 3), np.uint8)).save(folder / "cat/1.png")
    with self.assertRaisesRegex(
        ValueError, "holds features of what more/images held before"):
      load.images("more/images", store="features")
    self.assertLen(load.images("images", store="features").ids, 4)

  def test_a_folder_of_the_same_name_is_not_what_was_stored(self):
    _folder(self.here / "digits")
    digits = testbed_sets.load("digits", limit=5)
    self._store(digits)
    self.assertEqual(load.images("digits", store="features").ids, digits.ids)
    with self.assertRaisesRegex(ValueError, "what ./digits held before"):
      load.images("./digits", store="features")


if __name__ == "__main__":
  absltest.main()
