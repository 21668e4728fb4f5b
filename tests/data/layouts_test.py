"""Image sets in the layouts of others: domains, lists, tars, parquet, CIFAR."""

import contextlib
import io
import json
import pathlib
import pickle
import sys
import tarfile
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from PIL import Image

from jaxcal.data import catalogue
from jaxcal.data import contents
from jaxcal.data import domains
from jaxcal.data import image_set as image_sets
from jaxcal.data import layouts
from jaxcal.data import load
from jaxcal.data import pairs
from jaxcal.data import screening
from tests.data import miniatures


def _png(seed):
  content = io.BytesIO()
  Image.fromarray(miniatures.pixels(seed)).save(content, "PNG")
  return content.getvalue()


def _tar(path, members):
  path.parent.mkdir(parents=True, exist_ok=True)
  with tarfile.open(path, "w") as tar:
    for name, content in members:
      content = content.encode() if isinstance(content, str) else content
      info = tarfile.TarInfo(name)
      info.size = len(content)
      tar.addfile(info, io.BytesIO(content))


class _InAFolder(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.here = pathlib.Path(self.create_tempdir().full_path)

  def text(self, path, content):
    path = self.here / path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return str(path)

  def load(self, name, **options):
    return load.images(self.here / name, **options)

  def contents_of(self, found):
    return contents.identity_of(found)["data.contents"]

  def assert_refused(self, message, name, error=ValueError, **options):
    with self.assertRaisesRegex(error, message):
      self.load(name, **options)


class DomainsTest(_InAFolder):

  def setUp(self):
    super().setUp()
    miniatures.images(self.here / "office", [
        "Art/Alarm_Clock/1.jpg", "Art/Bed/1.jpg", "Real World/Bed/1.jpg",
        "Real World/Bed/2.jpg", "Real World/Mug/1.jpg", "Art/Mug/1.jpg"])
    self.text("office/ImageInfo.csv", "about,the,set\n")

  def test_all_domains_share_their_classes(self):
    found = self.load("office")
    self.assertEqual((found.name, found.class_names),
                     ("office", ("Alarm Clock", "Bed", "Mug")))
    self.assertEqual(found.ids, (
        "Art/Alarm_Clock/1.jpg", "Art/Bed/1.jpg", "Art/Mug/1.jpg",
        "Real World/Bed/1.jpg", "Real World/Bed/2.jpg", "Real World/Mug/1.jpg"))
    self.assertEqual(found.labels.tolist(), [0, 1, 2, 1, 1, 2])
    np.testing.assert_array_equal(found.read(4), miniatures.pixels(3))

  def test_a_domain_keeps_all_classes_as_candidates(self):
    found = self.load("office", domain="Art")
    self.assertEqual(found.class_names, ("Alarm Clock", "Bed", "Mug"))
    self.assertEqual(found.labels.tolist(), [0, 1, 2])
    self.assertEqual(found.ids[2], "Art/Mug/1.jpg")
    self.assert_refused("'office' has no domain 'art'; choose from: Art, Real "
                        "World", "office", domain="art")
    self.assert_refused("'Art' has no domains", "office/Art", domain="Bed")
    with self.assertRaisesRegex(ValueError, "digits has no domains"):
      load.images("digits", domain="Art")

  def test_names_of_all_domains(self):
    names = self.text("names.txt", "clock\ncouch\nmug\n")
    self.assertEqual(self.load("office", class_names=names).class_names,
                     ("clock", "couch", "mug"))
    names = self.text("names.txt", "Mug\tcup\nBed\tbed\nAlarm_Clock\tclock\n")
    found = self.load("office", class_names=names)
    self.assertEqual(found.class_names, ("cup", "bed", "clock"))
    self.assertEqual(found.ids[:4], (
        "Art/Mug/1.jpg", "Art/Bed/1.jpg", "Art/Alarm_Clock/1.jpg",
        "Real World/Mug/1.jpg"))
    self.assertEqual(found.labels.tolist(), [0, 1, 2, 0, 1, 1])

  @parameterized.parameters(
      (["train/cat/1.jpg", "test/cat/1.jpg"],),  # splits
      (["animals/cat/1.jpg", "tools/saw/1.jpg"],),  # groups of classes
      (["cat/train/1.jpg", "cat/test/2.jpg", "dog/train/1.jpg",
        "dog/test/2.jpg"],),  # splits of classes
      (["cat/images/1.jpg", "dog/images/1.jpg"],),  # one folder in each class
      (["photos/cat/1.jpg"],), (["cat/1.jpg", "dog/more/cat/1.jpg"],))
  def test_what_are_no_domains(self, paths):
    miniatures.images(self.here / "other", paths)
    self.assertEqual(domains.names(self.here / "other"), ())
    self.assert_refused("is a folder inside a class folder", "other")

  def test_a_replaced_picture_is_noticed(self):
    before = self.contents_of(self.load("office"))
    miniatures.images(self.here / "office", ["Art/Bed/1.jpg"])
    self.assertNotEqual(self.contents_of(self.load("office")), before)


class TextListsTest(_InAFolder):

  def setUp(self):
    super().setUp()
    self.paths = ["clipart/aircraft_carrier/c 1.jpg", "clipart/zebra/c2.jpg",
                  "sketch/zebra/s3.jpg"]
    miniatures.images(self.here, self.paths)

  def test_domainnet(self):
    self.text("clipart_test.txt",
              f"{self.paths[1]} 2\n{self.paths[0]} 0\n\n")
    self.text("other_train.txt", "sketch/The_Great_Wall/x.jpg 1\n")
    self.text("README.txt", "lists of images\n")
    found = self.load("clipart_test.txt")
    self.assertEqual((found.name, found.class_names), (
        "clipart_test", ("aircraft carrier", "The Great Wall", "zebra")))
    self.assertEqual(found.ids, (self.paths[1], self.paths[0]))
    self.assertEqual(found.labels.tolist(), [2, 0])
    np.testing.assert_array_equal(found.read(0), miniatures.pixels(1))
    self.assertEqual(load.name_of(self.here / "clipart_test.txt"),
                     "clipart_test")
    self.assertLen(self.load("clipart_test.txt", domain="clipart").ids, 2)

  def test_given_names(self):
    path = self.text("a.txt", f"{self.paths[0]} 1\n{self.paths[2]} 0\n")
    names = self.text("names.txt", "plane\nhorse\nboat\n")
    found = load.images(path, class_names=names)
    self.assertEqual(found.class_names, ("plane", "horse", "boat"))

  @parameterized.parameters(
      ("{0} 0\n{1}\n", "a.txt, line 2: expected the path of an image, a space "
       "and a label"),
      ("{0} 0\n{1} -1\n", "line 2: expected the path"),
      ("{0} 0\n{1} " + 50 * "9", "line 2: expected the path"),
      ("{0} 0\n{1} 0\n", "line 2: label 0 has images in 'aircraft carrier' and "
       "in 'zebra'"),
      ("{0} 0\n{1} 2\n", "no images of 1 labels, such as 1"),
      ("{0} 0\n{0} 0\n", "more than once"), ("\n", "lists no images"))
  def test_refused(self, lines, message):
    self.text("a.txt", lines.format(*self.paths))
    self.assert_refused(message, "a.txt")

  def test_absent(self):
    self.text("a.txt", f"{self.paths[0]} 0\nclipart/zebra/none.jpg 1\n")
    self.assert_refused("(?s)1 of the 2 images .*none.jpg", "a.txt",
                        FileNotFoundError)
    self.assert_refused("no file .*none.txt", "none.txt", FileNotFoundError)


class LabelledTarsTest(_InAFolder):

  def test_numbers_and_names_beside(self):
    _tar(self.here / "wds/test/0.tar", [
        ("s0.png", _png(0)), ("s0.cls", "1"), ("s1.webp", _png(1)),
        ("s1.cls", "0\n"), ("s1.txt", "a caption")])
    _tar(self.here / "wds/test/1.tar", [("s2.jpg", _png(2)), ("s2.cls", "1")])
    self.text("wds/classnames.txt", "cat\ndog\nfox\n")
    for path in ("wds/test", "wds/test/{0..1}.tar"):
      found = load.images(str(self.here / path))
      self.assertEqual((found.name, found.class_names),
                       ("test", ("cat", "dog", "fox")))
      self.assertEqual(found.ids, ("0.tar/s0", "0.tar/s1", "1.tar/s2"))
      self.assertEqual(found.labels.tolist(), [1, 0, 1])
      for position in range(3):
        np.testing.assert_array_equal(
            found.read(position), miniatures.pixels(position))
      self.assertEqual(load.name_of(str(self.here / path)), "test")
    some = image_sets.take(found, np.array([2, 0]))
    self.assertEqual([some.holder(0).name, some.encoded(1)],
                     ["1.tar", _png(0)])
    self.assertEqual(self.load("wds/test/1.tar").name, "1")

  @parameterized.parameters("cls", "label", "class_name")
  def test_json(self, key):
    _tar(self.here / "a.tar", [
        (name, content) for number, label in enumerate(("dog", "fat_cat"))
        for name, content in (
            (f"x/{number}.jpg", _png(number)),
            (f"x/{number}.json", json.dumps({key: label, "width": 4})))])
    found = self.load("a.tar")
    self.assertEqual((found.class_names, found.labels.tolist()),
                     (("dog", "fat cat"), [0, 1]))

  @parameterized.named_parameters(
      ("no_label", [("1.jpg", _png(1))], "no label .*key '1'"),
      ("no_image", [("1.jpg", _png(1)), ("1.cls", "a"), ("2.cls", "a")],
       "no image for the key '2'"),
      ("numbers", [("1.jpg", _png(1)), ("1.cls", "3")],
       "are numbers .* give the class names"),
      ("deep", [("1.jpg", _png(1)), ("1.json", "[" * 100_000)], "no label"),
      ("no_number", [("1.jpg", _png(1)), ("1.json", '{"label": [1]}')],
       "no label"),
      ("true", [("1.jpg", _png(1)), ("1.json", '{"label": true}')], "no label"),
      ("repeated", [("1.jpg", _png(1)), ("1.jpg", _png(2)), ("1.cls", "a")],
       "twice"), ("empty", [], "no labelled images"))
  def test_refused(self, members, message):
    _tar(self.here / "a.tar", members)
    self.assert_refused(message, "a.tar")

  def test_a_label_without_a_name(self):
    _tar(self.here / "a.tar", [("1.jpg", _png(1)), ("1.cls", "2")])
    self.text("classnames.txt", "cat\ndog\n")
    self.assert_refused(r"a.tar/1: label '2' is neither", "a.tar")

  def test_a_cut_tar_is_refused_and_not_evaluated_in_part(self):
    _tar(self.here / "a.tar", [
        member for number in range(20) for member in (
            (f"{number}.jpg", _png(number)), (f"{number}.cls", "cat"))])
    content = (self.here / "a.tar").read_bytes()
    (self.here / "a.tar").write_bytes(content[:9000])
    self.assert_refused("a.tar is cut off or no plain tar", "a.tar")

  def test_bad_images_and_other_bytes_are_noticed(self):
    _tar(self.here / "a.tar", [
        ("0.jpg", _png(0)), ("0.cls", "cat"), ("1.jpg", b"<html>"),
        ("1.cls", "dog")])
    self.assert_refused("1 of 2 files of 'a' .*\n.*a.tar/1: ", "a.tar")
    _tar(self.here / "a.tar", [("0.jpg", _png(0)), ("0.cls", "cat")])
    before = self.contents_of(self.load("a.tar"))
    _tar(self.here / "a.tar", [("0.jpg", _png(5)), ("0.cls", "cat")])
    self.assertNotEqual(self.contents_of(self.load("a.tar")), before)

  def test_folders_of_images_come_before_an_archive_beside_them(self):
    miniatures.images(self.here / "photos", ["cat/1.jpg", "dog/2.jpg"])
    _tar(self.here / "photos/all.tar", [("1.jpg", _png(1)), ("1.cls", "x")])
    self.assertEqual(self.load("photos").class_names, ("cat", "dog"))

  def test_as_pairs(self):
    _tar(self.here / "a.tar", [("0.jpg", _png(0)), ("0.cls", "cat")])
    found = pairs.labelled(self.load("a.tar"), "a photo of a {}.")
    self.assertEqual(found.captions, ("a photo of a cat.",))
    self.assertIsNotNone(contents.identity_of_pairs(found)["pairs.contents"])


class ParquetTest(_InAFolder):

  def setUp(self):
    super().setUp()
    try:
      import pyarrow  # noqa: F401
    except ImportError:
      self.skipTest("pyarrow is not installed: no parquet file was read")

  def write(self, path, rows, *, names=None, image="image", label="label",
            content=True, group=3, label_type=None):
    """Writes (pixels' seed, label) rows as `datasets` does."""
    import pyarrow
    from pyarrow import parquet
    cells = [{"bytes": _png(seed) if content else None, "path": f"{seed}.png"}
             for seed, _ in rows]
    table = pyarrow.table({
        image: pyarrow.array(cells, pyarrow.struct(
            [("bytes", pyarrow.binary()), ("path", pyarrow.string())])),
        label: pyarrow.array([value for _, value in rows], label_type)})
    if names is not None:
      features = {image: {"_type": "Image"},
                  label: {"_type": "ClassLabel", "names": names}}
      table = table.replace_schema_metadata({
          "huggingface": json.dumps({"info": {"features": features}})})
    path = self.here / path
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path, row_group_size=group)

  def test_a_folder_of_splits(self):
    rows = [(seed, seed % 2) for seed in range(8)]
    for split, some in (("train", rows[:1]), ("test", rows)):
      self.write(f"pets/data/{split}-00000-of-00001.parquet", some,
                 names=["cat", "dog"], image="photo", label="kind")
    found = self.load("pets")
    self.assertEqual((found.name, found.class_names), ("pets", ("cat", "dog")))
    self.assertEqual(found.labels.tolist(), [0, 1] * 4)
    self.assertEqual(
        found.ids[7], "data/test-00000-of-00001.parquet/000007")
    for position in (7, 0, 3):
      np.testing.assert_array_equal(
          found.read(position), miniatures.pixels(position))
    self.assertLen(self.load("pets", split="train").ids, 1)
    self.assert_refused("has no split 'val'; choose from: test, train", "pets",
                        FileNotFoundError, split="val")

  @parameterized.parameters(
      ("validation", ["s/validation/0000.parquet"]),
      ("val", ["s/validation-00000-of-00002-0123abc.parquet",
               "s/validation-00001-of-00002-0123abc.parquet"]))
  def test_names_of_splits(self, split, paths):
    for path in (*paths, paths[0].replace("validation", "train")):
      self.write(path, [(1, "cat"), (2, "dog")])
    self.assertLen(self.load("s", split=split).ids, 2 * len(paths))

  def test_a_file_and_names_in_the_readme(self):
    self.write("set/a.parquet", [(1, 1), (2, 0)])
    self.assert_refused("are numbers", "set/a.parquet")
    self.text("set/README.md", """---
dataset_info:
  features:
  - name: image
    dtype: image
  - name: other
    dtype:
      class_label:
        names:
          '0': x
  - name: label
    dtype:
      class_label:
        names:
          '0': aquarium fish
          '1': "dog"
  splits:
  - name: train
    num_bytes: 12
---
# 1: a set
""")
    self.assertEqual(self.load("set/a.parquet").class_names,
                     ("aquarium fish", "dog"))

  @parameterized.parameters(
      (dict(rows=[(1, -1)], names=["a", "b"]), "row 0: the label is -1"),
      (dict(rows=[(1, None)], names=["a", "b"]), "row 0: the label is None"),
      (dict(rows=[(1, 2)], names=["a", "b"]), "'2' is neither"),
      (dict(rows=[(1, 0.5)], names=["a", "b"]), "the label is 0.5"),
      (dict(rows=[(1, "a")], image="pixels"), "has the columns pixels, label"),
      (dict(rows=[(1, "a")], content=False), "has no bytes but the path "
       "'1.png'"), (dict(rows=[]), "has no images"))
  def test_refused(self, options, message):
    self.write("a.parquet", **options)
    self.assert_refused(message, "a.parquet")

  def test_damaged(self):
    self.write("a.parquet", [(seed, "a") for seed in range(50)])
    content = (self.here / "a.parquet").read_bytes()
    for damaged in (b"", b"PAR1", content[:len(content) // 2], b"x" * 500):
      (self.here / "a.parquet").write_bytes(damaged)
      self.assert_refused("a.parquet is no whole .parquet", "a.parquet")

  def test_other_bytes_are_noticed(self):
    self.write("a.parquet", [(1, "a"), (2, "b")])
    before = self.contents_of(self.load("a.parquet"))
    self.write("a.parquet", [(1, "a"), (3, "b")])
    self.assertNotEqual(self.contents_of(self.load("a.parquet")), before)

  def test_without_pyarrow(self):
    self.write("a.parquet", [(1, "a")])
    with mock.patch.dict(sys.modules, {"pyarrow": None}):
      self.assert_refused(r"pip install 'jaxcal\[parquet\]'", "a.parquet",
                          ImportError)


class CifarTest(_InAFolder):

  def records(self, path, labels, *, coarse=False):
    """Writes images whose red is their position and whose blue is 7."""
    content = bytearray()
    for number, label in enumerate(labels):
      content += bytes([9, label] if coarse else [label])
      content += bytes([number] * 1024 + [0] * 1024 + [7] * 1024)
    path = self.here / path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)

  def test_binary_version(self):
    self.records("cifar-10-batches-bin/test_batch.bin", [3, 9, 0])
    found = catalogue.load("cifar10", self.here, partial=True)
    self.assertEqual(found.class_names, catalogue.row("cifar10").class_names)
    self.assertEqual(found.labels.tolist(), [3, 9, 0])
    self.assertEqual(found.ids[2], "test_batch.bin/00002")
    self.assertEqual(found.read(2).shape, (32, 32, 3))
    np.testing.assert_array_equal(found.read(2)[5, 6], [2, 0, 7])
    for number in range(1, 6):
      self.records(f"cifar-10-batches-bin/data_batch_{number}.bin", [number])
    found = catalogue.load("cifar10", self.here, split="train", partial=True)
    self.assertEqual(found.labels.tolist(), [1, 2, 3, 4, 5])
    with self.assertRaisesRegex(ValueError, "50,000 images .* found 5"):
      catalogue.load("cifar10", self.here, split="train")

  def test_fine_labels_of_100(self):
    self.records("cifar100/cifar-100-binary/test.bin", [99, 4], coarse=True)
    found = catalogue.load("cifar100", self.here, partial=True)
    self.assertEqual(found.labels.tolist(), [99, 4])
    self.assertEqual(found.class_names[4], "beaver")

  def test_other_order_of_names(self):
    self.records("cifar10/test_batch.bin", [3])
    names = list(catalogue.row("cifar10").class_names)
    self.text("cifar10/batches.meta.txt", "\n".join(sorted(names)[::-1]) + "\n")
    with self.assertRaisesRegex(ValueError, "label 0 should be 'airplane'"):
      catalogue.load("cifar10", self.here, partial=True)

  @parameterized.parameters(
      (lambda content: content[:-1], "has 6,145 bytes, expected a multiple"),
      (lambda content: b"", "has 0 bytes"),
      (lambda content: b"\x0a" + content[1:], "has the label 10"))
  def test_damaged(self, change, message):
    self.records("cifar10/test_batch.bin", [3, 4])
    path = self.here / "cifar10/test_batch.bin"
    path.write_bytes(change(path.read_bytes()))
    with self.assertRaisesRegex(ValueError, message):
      catalogue.load("cifar10", self.here, partial=True)

  def test_a_folder_per_class(self):
    names = catalogue.row("cifar100").class_names
    miniatures.images(self.here / "cifar100/test", [
        f"{name.replace('_', ' ')}/1.png" for name in names[::-1]])
    found = catalogue.load("cifar100", self.here, partial=True)
    self.assertEqual(found.class_names, names)
    self.assertEqual(found.ids[1], "aquarium fish/1.png")
    np.testing.assert_array_equal(found.labels, range(100))

  @parameterized.parameters("cifar10", "cifar100")
  def test_prepared_by_tensorflow_datasets(self, name):
    names = catalogue.row(name).class_names
    miniatures.prepare(
        self.here, name, {"test": [
            (f"test_{label}", label, miniatures.pixels(label))
            for label in (9, 4)]}, classes=names, key="id")
    found = catalogue.load(name, self.here, source="tfds", partial=True)
    self.assertEqual(found.class_names, names)
    self.assertEqual(list(zip(found.ids, found.labels)),
                     [("test_4", 4), ("test_9", 9)])
    np.testing.assert_array_equal(found.read(1), miniatures.pixels(9))

  @parameterized.parameters(
      ("cifar10", "cifar-10-batches-py", ("data_batch_1", "test_batch"),
       "cifar-10-binary.tar.gz"),
      ("cifar100", "cifar100/cifar-100-python", ("train", "test", "meta"),
       "cifar-100-binary.tar.gz"))
  def test_pickles_are_never_read(self, name, folder, files, archive):
    for file in files:
      self.text(f"{folder}/{file}", "")
    with mock.patch.object(
        pickle, "load", side_effect=AssertionError), mock.patch.object(
            pickle, "loads", side_effect=AssertionError):
      with self.assertRaisesRegex(ValueError, f"pickles.*{archive}"):
        catalogue.load(name, self.here)
      self.assert_refused(f"pickles.*{archive}", folder)

  def test_a_path_says_the_name(self):
    self.records("cifar-10-batches-bin/test_batch.bin", [3])
    self.assert_refused("name the set cifar10", "cifar-10-batches-bin")

  def test_other_bytes_are_noticed_and_headers_are_none(self):
    self.records("cifar10/test_batch.bin", [3, 4])
    load_it = lambda: catalogue.load("cifar10", self.here, partial=True)
    screening.check(load_it())
    before = self.contents_of(load_it())
    content = bytearray((self.here / "cifar10/test_batch.bin").read_bytes())
    content[100] += 1
    (self.here / "cifar10/test_batch.bin").write_bytes(content)
    self.assertNotEqual(self.contents_of(load_it()), before)


class NamesTest(_InAFolder):

  @parameterized.parameters(
      ("a/b.csv", "b"), ("a/b.TXT", "b"), ("a/b.parquet", "b"),
      ("a/b", "b"), ("a/{0..3}.tar", "a"), ("a/*/x.tar", "a"),
      ("a/b.jpg", "b.jpg"))
  def test_name_of(self, path, name):
    self.assertEqual(layouts.name_of(path), name)

  def test_an_existing_folder_is_a_folder(self):
    miniatures.images(self.here / "a.txt", ["cat/1.jpg"])
    with contextlib.chdir(self.here):
      self.assertEqual(layouts.name_of("a.txt"), "a.txt")
      self.assertEqual(load.images("a.txt").class_names, ("cat",))

  def test_none(self):
    self.assertIsNone(layouts.read(str(self.here / "none")))


if __name__ == "__main__":
  absltest.main()
