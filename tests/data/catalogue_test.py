"""Tests of jaxcal.data.catalogue."""

import importlib.util
import json
import pathlib
import subprocess
import sys

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from jaxcal.data import catalogue
from jaxcal.data import image_set as image_sets
from jaxcal.data import tfds
from tests import shared
from tests.data import miniatures

# Classes, test images, first and last class, as the papers' codes have them.
_FACTS = {
    "imagenet": (1000, 50000, "tench", "toilet paper"),
    "imagenet_a": (200, 7500, "stingray", "acorn"),
    "imagenet_v2": (1000, 10000, "tench", "toilet paper"),
    "imagenet_r": (200, 30000, "goldfish", "acorn"),
    "imagenet_sketch": (1000, 50889, "tench", "toilet paper"),
    "dtd": (47, 1692, "banded", "zigzagged"),
    "oxford_flowers": (102, 2463, "pink primrose", "blackberry lily"),
    "food101": (101, 30300, "apple_pie", "waffles"),
    "stanford_cars": (196, 8041, "2000 AM General Hummer SUV",
                      "2012 smart fortwo Convertible"),
    "sun397": (397, 19850, "abbey", "youth_hostel"),
    "fgvc_aircraft": (100, 3333, "707-320", "Yak-42"),
    "oxford_pets": (37, 3669, "abyssinian", "yorkshire_terrier"),
    "caltech101": (100, 2465, "face", "yin_yang"),
    "ucf101": (101, 3783, "Apply_Eye_Makeup", "Yo_Yo"),
    "eurosat": (10, 8100, "Annual Crop Land", "Sea or Lake"),
}
# Sets that the papers of test-time prompt tuning leave out.
_OTHERS = {
    "cifar10": (10, 10000, "airplane", "truck"),
    "cifar100": (100, 10000, "apple", "worm"),
    "imagenet_c": (1000, 50000, "tench", "toilet paper"),
}
_SHIFTS = ("imagenet_a", "imagenet_v2", "imagenet_r", "imagenet_sketch")
# All images of each set without ImageNet and its shifts, by its authors, less
# the classes that are left out of Caltech 101.
_TOTALS = {
    "dtd": 47 * 120, "oxford_flowers": 8189, "food101": 101 * 1000,
    "stanford_cars": 8144 + 8041, "sun397": 397 * 100, "fgvc_aircraft": 10000,
    "oxford_pets": 3680 + 3669, "caltech101": 9144 - 467 - 435,
    "ucf101": 13320, "eurosat": 27000,
}
_INSTALLED = importlib.util.find_spec("tensorflow_datasets") is not None


class RowsTest(parameterized.TestCase):

  def test_the_fifteen_sets_and_the_others(self):
    self.assertEqual(set(catalogue.CATALOGUE), {*_FACTS, *_OTHERS})
    self.assertEqual([row.name for row in catalogue.CATALOGUE.values()
                      if row.of_papers], list(_FACTS))

  def test_corrupted_imagenet(self):
    row = catalogue.row("imagenet_c")
    self.assertEqual(row.class_names, catalogue.row("imagenet").class_names)
    self.assertEqual(row.counts, {"test": 50_000})

  @parameterized.parameters(*_FACTS, *_OTHERS)
  def test_classes_and_test_images(self, name):
    num_classes, num_images, first, last = (_FACTS | _OTHERS)[name]
    row = catalogue.row(name)
    self.assertEqual(row.name, name)
    self.assertEqual(row.num_classes, num_classes)
    self.assertLen(row.class_names, num_classes)
    self.assertEqual(row.counts["test"], num_images)
    self.assertEqual((row.class_names[0], row.class_names[-1]), (first, last))

  def test_sums_of_the_papers(self):
    images = {name: row.counts["test"]
              for name, row in catalogue.CATALOGUE.items() if row.of_papers}
    shifts = sum(images[name] for name in _SHIFTS)
    self.assertEqual(shifts, 98_389)
    self.assertEqual(sum(images.values()) - shifts, 133_696)

  @parameterized.parameters(*_TOTALS)
  def test_splits_make_up_the_set(self, name):
    counts = catalogue.row(name).counts
    self.assertEqual(
        sum(counts[split] for split in ("train", "val", "test")),
        _TOTALS[name])

  def test_which_are_shifts_and_which_get_augmix(self):
    for name, row in catalogue.CATALOGUE.items():
      self.assertEqual(row.shift, name in _SHIFTS)
      self.assertEqual(
          row.augmix, row.of_papers and not name.startswith("imagenet"))

  def test_templates(self):
    rows = catalogue.CATALOGUE.values()
    self.assertEqual({row.test_time_template for row in rows},
                     {"a photo of a {}."})
    self.assertEqual({row.name: row.few_shot_template for row in rows
                      if row.few_shot_template != "a photo of a {}."}, {
        "oxford_pets": "a photo of a {}, a type of pet.",
        "oxford_flowers": "a photo of a {}, a type of flower.",
        "fgvc_aircraft": "a photo of a {}, a type of aircraft.",
        "dtd": "{} texture.",
        "eurosat": "a centered satellite photo of {}.",
        "food101": "a photo of {}, a type of food.",
        "ucf101": "a photo of a person doing {}.",
    })

  def test_only_imagenet_repeats_names(self):
    for name, row in catalogue.CATALOGUE.items():
      names = row.class_names
      repeated = {n for n in names if names.count(n) > 1}
      self.assertEqual(repeated, {"missile", "sunglasses"} if name in (
          "imagenet", "imagenet_v2", "imagenet_sketch", "imagenet_c") else
                       set())

  def test_names_and_ids_of_the_released_code(self):
    folder = shared.path("data/class_names")
    names = json.loads((folder / "class_names.json").read_text())
    imagenet = json.loads((folder / "imagenet_indices.json").read_text())
    for name, expected in names.items():
      self.assertEqual(list(catalogue.row(name).class_names), expected)
    for name in ("imagenet_a", "imagenet_r"):
      row = catalogue.row(name)
      self.assertEqual(list(row.imagenet_indices), imagenet[name])
      self.assertEqual(list(row.class_folders), [
          imagenet["imagenet_wnids"][index] for index in imagenet[name]])
      self.assertEqual(list(row.class_names), [
          names["imagenet"][index] for index in imagenet[name]])
    for name in ("imagenet", "imagenet_sketch"):
      self.assertEqual(
          list(catalogue.row(name).class_folders), imagenet["imagenet_wnids"])
    v2 = catalogue.row("imagenet_v2")
    # The released code permutes the names into the order of sorted strings.
    self.assertEqual(
        [v2.class_names[int(folder)] for folder in sorted(v2.class_folders)],
        [names["imagenet"][index]
         for index in imagenet["imagenet_v2_folder_order"]])

  def test_class_folders_are_sorted(self):
    for name in ("imagenet", "imagenet_a", "imagenet_r", "imagenet_sketch"):
      folders = catalogue.row(name).class_folders
      self.assertEqual(list(folders), sorted(set(folders)))

  def test_unknown(self):
    with self.assertRaisesRegex(
        ValueError, "unknown data set 'flowers'; did you mean "
        r"oxford_flowers\? choose from: imagenet, .*dtd"):
      catalogue.row("flowers")

  def test_loads_nothing_heavy(self):
    code = ("import sys; from jaxcal.data import catalogue\n"
            "catalogue.row('imagenet_r').class_names\n"
            "print({'tensorflow', 'tensorflow_datasets'} & set(sys.modules))")
    done = subprocess.run([sys.executable, "-c", code], check=True,
                          capture_output=True, text=True)
    self.assertEqual(done.stdout.strip(), "set()")


class _LoadCase(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.create_tempdir().full_path)

  def rows(self, name, per_class=1):
    """Entries of a split file with all classes of a set."""
    return [[f"{label}/{number}.jpg", label, class_name]
            for label, class_name in enumerate(catalogue.row(name).class_names)
            for number in range(per_class)]

  def classes(self, folder, names):
    miniatures.images(self.root / folder, [f"{n}/x.JPEG" for n in names])


class CoopTest(_LoadCase):

  def test_complete_set(self):
    rows = self.rows("dtd", per_class=36)  # 47 * 36 = 1692
    miniatures.split_file(
        self.root / "dtd/split_zhou_DescribableTextures.json", test=rows)
    miniatures.images(self.root / "dtd/images", [row[0] for row in rows])
    image_set = catalogue.load("dtd", self.root)
    image_sets.check(image_set)
    self.assertEqual(image_set.name, "dtd")
    self.assertEqual(
        image_set.class_names, catalogue.row("dtd").class_names)
    self.assertEqual(image_set.ids, tuple(row[0] for row in rows))
    np.testing.assert_array_equal(image_set.labels, np.repeat(range(47), 36))
    np.testing.assert_array_equal(
        image_set.read(1000), miniatures.pixels(1000))

    miniatures.split_file(
        self.root / "dtd/split_zhou_DescribableTextures.json", test=rows[:-1])
    with self.assertRaisesRegex(
        ValueError, "dtd should have 1,692 images in the split 'test', found "
        "1,691.*partial=True"):
      catalogue.load("dtd", self.root)

  @parameterized.parameters(
      ("oxford_pets", "oxford_pets/images",
       "oxford_pets/split_zhou_OxfordPets.json"),
      ("oxford_pets", "OxfordPets", "data_splits/split_zhou_OxfordPets.json"),
      ("stanford_cars", "StanfordCar", "data_splits/split_zhou_StanfordCars.js"
       "on"),
      ("eurosat", "eurosat/2750", "eurosat/2750/split_zhou_EuroSAT.json"),
      ("caltech101", "caltech-101/101_ObjectCategories",
       "caltech-101/split_zhou_Caltech101.json"),
      ("caltech101", "Caltech101", "split_zhou_Caltech101.json"),
      ("sun397", "SUN397", "SUN397/split_zhou_SUN397.json"),
      ("ucf101", "ucf101/UCF-101-midframes", "ucf101/split_zhou_UCF101.json"),
      ("food101", "Food101/images", "data_splits/split_zhou_Food101.json"),
      ("oxford_flowers", "Flower102/jpg", "split_zhou_OxfordFlowers.json"),
  )
  def test_usual_places(self, name, images, split_file):
    rows = self.rows(name)
    miniatures.split_file(self.root / split_file, val=rows)
    miniatures.images(self.root / images, [rows[-1][0]])
    image_set = catalogue.load(name, self.root, split="val", partial=True)
    self.assertEqual(image_set.ids, (rows[-1][0],))
    self.assertEqual(image_set.labels[0], len(rows) - 1)
    self.assertEqual(image_set.read(0).shape, (5, 4, 3))
    with self.assertRaisesRegex(
        FileNotFoundError, rf"(?s){len(rows) - 1} of the {len(rows)} images .*"
        rf"{rows[0][0]}"):
      catalogue.load(name, self.root, split="val")

  @parameterized.named_parameters(
      ("other_order", lambda names: names[:1] + names[2:] + names[1:2],
       "eurosat: label 1 should be 'Forest', found 'Herbaceous Vegetation"),
      ("folder_names", lambda names: ["AnnualCrop"] + names[1:],
       "label 0 should be 'Annual Crop Land', found 'AnnualCrop'"),
      ("missing", lambda names: names[:-1], "have 10 classes, found 9"),
      ("too_many", lambda names: names + ["Cloud"], "10 classes, found 11"),
  )
  def test_other_classes(self, change, message):
    names = change(list(catalogue.row("eurosat").class_names))
    rows = [[f"{i}.jpg", i, name] for i, name in enumerate(names)]
    miniatures.split_file(
        self.root / "eurosat/split_zhou_EuroSAT.json", test=rows)
    miniatures.images(self.root / "eurosat/2750", [row[0] for row in rows])
    with self.assertRaisesRegex(ValueError, message):
      catalogue.load("eurosat", self.root, partial=True)

  def test_case_and_underscores_do_not_matter(self):
    rows = self.rows("ucf101")
    for row in rows:
      row[-1] = row[-1].replace("_", " ").lower()
    miniatures.split_file(self.root / "split_zhou_UCF101.json", test=rows)
    miniatures.images(self.root / "ucf101", [row[0] for row in rows])
    image_set = catalogue.load("ucf101", self.root, partial=True)
    self.assertEqual(image_set.class_names[-1], "Yo_Yo")

  def test_nothing_there(self):
    with self.assertRaisesRegex(
        FileNotFoundError, r"no split_zhou_EuroSAT\.json .*eurosat.*data_splits"
        ".*github.com/KaiyangZhou/CoOp"):
      catalogue.load("eurosat", self.root)
    miniatures.split_file(
        self.root / "split_zhou_EuroSAT.json", test=self.rows("eurosat"))
    with self.assertRaisesRegex(
        FileNotFoundError, r"no folder of eurosat .*eurosat.2750.*Obtain "
        r"EuroSAT \(RGB\) from https://github.com/phelber/EuroSAT"):
      catalogue.load("eurosat", self.root)


class AircraftTest(_LoadCase):

  def setUp(self):
    super().setUp()
    folder = self.root / "fgvc_aircraft"
    names = catalogue.row("fgvc_aircraft").class_names
    miniatures.images(folder / "images", ["1.jpg", "2.jpg"])
    (folder / "variants.txt").write_text("\n".join(names) + "\n")
    (folder / "images_variant_test.txt").write_text(
        f"2 {names[72]}\n1 {names[3]}\n")

  def test_loads(self):
    image_set = catalogue.load("fgvc_aircraft", self.root, partial=True)
    self.assertEqual(image_set.ids, ("images/2.jpg", "images/1.jpg"))
    np.testing.assert_array_equal(image_set.labels, [72, 3])
    self.assertEqual(image_set.class_names[72], "F-16A/B")

  def test_incomplete(self):
    with self.assertRaisesRegex(ValueError, "3,333 images .*found 2"):
      catalogue.load("fgvc_aircraft", self.root)

  def test_other_order_of_the_variants(self):
    path = self.root / "fgvc_aircraft/variants.txt"
    names = path.read_text().splitlines()
    path.write_text("\n".join(reversed(names)))
    with self.assertRaisesRegex(
        ValueError, "label 0 should be '707-320', found 'Yak-42'"):
      catalogue.load("fgvc_aircraft", self.root, partial=True)

  def test_nothing_there(self):
    with self.assertRaisesRegex(
        FileNotFoundError, "no variants.txt of fgvc_aircraft .*Obtain FGVC"):
      catalogue.load("fgvc_aircraft", self.root / "fgvc_aircraft/images")


class ImageNetTest(_LoadCase):

  @parameterized.parameters(
      ("imagenet", "imagenet/images/val", "val"),
      ("imagenet", "ImageNet/val", "test"),
      ("imagenet", "ImageNet/train", "train"),
      ("imagenet_a", "imagenet-a", "test"),
      ("imagenet_a", "imagenet-adversarial/imagenet-a", "test"),
      ("imagenet_r", "imagenet-rendition/imagenet-r", "test"),
      ("imagenet_sketch", "ImageNet-Sketch/sketch", "test"),
      ("imagenet_sketch", "imagenet-sketch/images", "test"),
      ("imagenet_sketch", "ImageNet-Sketch", "test"),
  )
  def test_label_is_the_place_among_the_sorted_folders(
      self, name, folder, split):
    folders = catalogue.row(name).class_folders
    wanted = [folders[-1], folders[5], folders[130]]
    self.classes(folder, wanted)
    image_set = catalogue.load(name, self.root, split=split, partial=True)
    self.assertEqual(
        image_set.ids, tuple(f"{folder}/x.JPEG" for folder in sorted(wanted)))
    np.testing.assert_array_equal(
        image_set.labels, [5, 130, len(folders) - 1])
    self.assertEqual(image_set.class_names, catalogue.row(name).class_names)
    np.testing.assert_array_equal(image_set.read(2), miniatures.pixels(0))

  def test_the_same_folder_has_other_labels_in_the_smaller_sets(self):
    labels = {}
    for name, folder in (
        ("imagenet", "imagenet/val"), ("imagenet_a", "imagenet-a"),
        ("imagenet_r", "imagenet-r")):
      self.classes(folder, ["n01498041", "n01614925"][name == "imagenet_r":])
      image_set = catalogue.load(name, self.root, partial=True)
      labels[name] = [
          image_set.labels[-1], image_set.class_names[image_set.labels[-1]]]
    self.assertEqual(labels, {  # The bald eagle.
        "imagenet": [22, "bald eagle"], "imagenet_a": [5, "bald eagle"],
        "imagenet_r": [8, "bald eagle"]})

  def test_v2_folder_10_is_label_10(self):
    self.classes("imagenetv2-matched-frequency-format-val", ["10", "2", "999"])
    image_set = catalogue.load("imagenet_v2", self.root, partial=True)
    self.assertEqual(image_set.ids, ("2/x.JPEG", "10/x.JPEG", "999/x.JPEG"))
    np.testing.assert_array_equal(image_set.labels, [2, 10, 999])
    self.assertEqual(
        [image_set.class_names[label] for label in image_set.labels],
        ["great white shark", "brambling", "toilet paper"])

  def test_incomplete(self):
    folders = catalogue.row("imagenet_r").class_folders
    self.classes("imagenet-r", folders[:-9])
    with self.assertRaisesRegex(
        FileNotFoundError, f"9 of its 200 class folders missing.*{folders[-1]}"
        ".*Obtain ImageNet-R from"):
      catalogue.load("imagenet_r", self.root)
    self.classes("imagenet-r", folders[-9:])
    with self.assertRaisesRegex(ValueError, "30,000 images .*found 200"):
      catalogue.load("imagenet_r", self.root)

  def test_a_class_of_imagenet_that_is_no_candidate(self):
    self.classes("imagenet-a", ["n01440764", "n01498041"])  # tench, stingray
    with self.assertRaisesRegex(ValueError, "no class name.*n01440764"):
      catalogue.load("imagenet_a", self.root, partial=True)

  def test_nothing_there(self):
    with self.assertRaisesRegex(
        FileNotFoundError, "no folder of imagenet .*imagenet.images.val.*"
        "ImageNet.val.*Obtain .* from https://image-net.org"):
      catalogue.load("imagenet", self.root)

  @parameterized.parameters(
      ({"split": "val"}, "unknown split 'val' of imagenet_a; .*from: test"),
      ({"source": "web"}, "unknown source 'web' .*choose from: files, tfds"),
  )
  def test_unknown(self, arguments, message):
    with self.assertRaisesRegex(ValueError, message):
      catalogue.load("imagenet_a", self.root, **arguments)


class PreparedTest(_LoadCase):

  @parameterized.parameters(*_FACTS)
  def test_names_of_the_installed_version_can_be_joined(self, name):
    row = catalogue.row(name)
    if row.prepared is None:
      self.assertIn(name, ("fgvc_aircraft", "ucf101"))
      return
    if not _INSTALLED:
      self.skipTest("tensorflow-datasets is not installed")
    import tensorflow_datasets

    builder, _, config = row.prepared.name.partition("/")
    features = tensorflow_datasets.builder_cls(builder)(
        data_dir=self.root, config=config or None).info.features
    theirs = features["label"].names
    if row.imagenet_indices:
      self.assertEqual(
          [theirs[index] for index in row.imagenet_indices],
          list(catalogue.row(name).class_folders) if row.layout == "wnids" else
          list(catalogue.row("imagenet").class_folders))
      return
    labels = tfds.join_labels(
        theirs, row.class_names, renamed=row.prepared.renamed,
        unused=row.prepared.unused)
    if name == "caltech101":
      self.assertEqual(labels[theirs.index("faces")], 0)
      self.assertEqual(labels[theirs.index("airplanes")], 4)
      self.assertIsNone(labels[theirs.index("faces_easy")])
      self.assertLen(set(labels), 101)
    else:
      # Both sides have the classes in the order of their authors.
      self.assertEqual(labels, list(range(row.num_classes)))

  def test_subset_of_imagenet(self):
    wnids = catalogue.row("imagenet").class_folders
    miniatures.prepare(
        self.root, "imagenet_a", classes=wnids, splits={"test": [
            ("b.jpg", 6, miniatures.pixels(0)),
            ("a.jpg", 22, miniatures.pixels(1))]})
    image_set = catalogue.load(
        "imagenet_a", self.root, source="tfds", partial=True)
    self.assertEqual(image_set.name, "imagenet_a")
    self.assertEqual(image_set.ids, ("b.jpg", "a.jpg"))
    np.testing.assert_array_equal(image_set.labels, [0, 5])
    self.assertEqual(
        image_set.class_names, catalogue.row("imagenet_a").class_names)
    with self.assertRaisesRegex(ValueError, "7,500 images .*found 2"):
      catalogue.load("imagenet_a", self.root, source="tfds")

  def eurosat(self, rows):
    # Another order than the catalogue's.
    theirs = ["SeaLake", "River", "AnnualCrop", "Forest",
              "HerbaceousVegetation", "Highway", "Industrial", "Pasture",
              "PermanentCrop", "Residential"]
    miniatures.prepare(
        self.root, "eurosat/rgb", classes=theirs, key="filename",
        splits={"train": [
            ("SeaLake_7.jpg", 0, miniatures.pixels(0)),
            ("Forest_1.jpg", 3, miniatures.pixels(1)),
            ("Forest_2.jpg", 3, miniatures.pixels(2))]})
    miniatures.split_file(
        self.root / "split_zhou_EuroSAT.json", test=rows,
        train=self.rows("eurosat"))

  def test_split_file_chooses_by_file_name(self):
    self.eurosat([["Forest/Forest_2.jpg", 1, "Forest"],
                  ["SeaLake/SeaLake_7.jpg", 9, "Sea or Lake"]])
    image_set = catalogue.load(
        "eurosat", self.root, source="tfds", partial=True)
    image_sets.check(image_set)
    self.assertEqual(
        image_set.ids, ("Forest/Forest_2.jpg", "SeaLake/SeaLake_7.jpg"))
    np.testing.assert_array_equal(image_set.labels, [1, 9])
    np.testing.assert_array_equal(image_set.read(0), miniatures.pixels(2))
    np.testing.assert_array_equal(image_set.read(1), miniatures.pixels(0))

  def test_split_file_and_prepared_labels_disagree(self):
    self.eurosat([["Forest/Forest_2.jpg", 8, "River"]])
    with self.assertRaisesRegex(
        ValueError, r"Forest_2\.jpg the label 8 \('River'\), but it is prepared"
        " as 'Forest'"):
      catalogue.load("eurosat", self.root, source="tfds", partial=True)

  def test_listed_images_that_are_not_prepared(self):
    self.eurosat([["Forest/Forest_2.jpg", 1, "Forest"],
                  ["Forest/Forest_3.jpg", 1, "Forest"]])
    with self.assertRaisesRegex(
        FileNotFoundError, r"1 of the 2 images .*such as Forest/Forest_3\.jpg"):
      catalogue.load("eurosat", self.root, source="tfds")

  def test_what_tensorflow_datasets_does_not_have(self):
    with self.assertRaisesRegex(
        ValueError, "does not have the images of ucf101. Obtain UCF101"):
      catalogue.load("ucf101", self.root, source="tfds")
    with self.assertRaisesRegex(
        ValueError, "no split like 'train' of stanford_cars, only test; use"):
      catalogue.load("stanford_cars", self.root, split="train", source="tfds")
    with self.assertRaisesRegex(
        FileNotFoundError, "tfds build imagenet2012 .*array_record"):
      catalogue.load("imagenet", self.root, source="tfds")


if __name__ == "__main__":
  absltest.main()
