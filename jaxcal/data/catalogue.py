"""The fifteen data sets of test-time prompt tuning, CIFAR and ImageNet-C.

Class order and file lists are where an evaluation silently drops to chance, so
what is found on disk is compared with the row before the first image is read.
"""

from collections.abc import Mapping
import dataclasses
import functools
import json
import os
import pathlib

from jaxcal import spelling
from jaxcal.data import aircraft
from jaxcal.data import cifar
from jaxcal.data import coop
from jaxcal.data import corruptions
from jaxcal.data import decoding
from jaxcal.data import image_set as image_sets
from jaxcal.data import sources
from jaxcal.data import tfds

TEST_TIME_TEMPLATE = "a photo of a {}."
SOURCES = ("files", "tfds")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
  """The set as tensorflow-datasets has it.

  Attributes:
    name: Name in tensorflow-datasets, with the config, where there is one.
    splits: Name of its split for each of ours that has the same images.
    every: All its splits, where they are other ones than ours; the images are
      then found by the file names in the split file.
    renamed: Names that it has for classes that it calls otherwise.
    unused: Names of its classes that are no candidates.
  """

  name: str
  splits: Mapping[str, str] = dataclasses.field(default_factory=dict)
  every: str | None = None
  renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)
  unused: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Row:
  """What is known of a data set.

  Attributes:
    name: The key in `CATALOGUE`.
    title: Title as its authors write it.
    num_classes: How many candidates.
    counts: Images by split.
    layout: How it lies on disk: listed in a split file ("coop") or in
      FGVC-Aircraft's own text files ("aircraft"), one folder per class, called
      by its WordNet id ("wnids") or its label ("labels"), or CIFAR's binary
      files, or a folder per class of a split ("cifar").
    folders: Where it is looked for below the data root, in this order.
    images: Where the images are looked for below such a folder; {split} stands
      for train or val, and of a set that has its images several times {group},
      {corruption} and {severity} for what was done to them.
    split_file: The JSON file of the layout "coop".
    few_shot_template: The prompt of the few-shot papers (CoOp and after).
    test_time_template: The prompt of the test-time tuning papers.
    prepared: How tensorflow-datasets has it; None where it does not.
    licence: Licence as far as known.
    home: Where to obtain it.
    augmix: Whether the released fine-grained runs of the test-time tuning
      papers mix their views with AugMix. The released shift runs do so for the
      shift sets, too, in the later papers.
    shift: Whether it is one of the four distribution shifts of ImageNet.
    of_papers: Whether the papers of test-time prompt tuning use it.
  """

  name: str
  title: str
  num_classes: int
  counts: Mapping[str, int]
  layout: str
  folders: tuple[str, ...]
  images: tuple[str, ...]
  split_file: str | None = None
  few_shot_template: str = TEST_TIME_TEMPLATE
  test_time_template: str = TEST_TIME_TEMPLATE
  prepared: Prepared | None = None
  licence: str
  home: str
  augmix: bool = False
  shift: bool = False
  of_papers: bool = True

  @property
  def class_names(self) -> tuple[str, ...]:
    """The candidates in label order."""
    names = _facts()["class_names"]
    if self.name in names:
      return tuple(names[self.name])
    return tuple(names["imagenet"][index] for index in self.imagenet_indices)

  @property
  def imagenet_indices(self) -> tuple[int, ...]:
    """ImageNet's label of each class; empty for a set of other classes."""
    if self.layout not in ("wnids", "labels"):
      return ()
    subsets = _facts()["imagenet_subsets"]
    return tuple(subsets.get(self.name, range(1000)))

  @property
  def class_folders(self) -> tuple[str, ...]:
    """The class folders in label order; empty where there are none."""
    if self.layout == "wnids":
      return _wnids(self.imagenet_indices)
    return tuple(str(label) for label in self.imagenet_indices)


_SPLITS_TOGETHER = "train+validation+test"
CATALOGUE = {entry.name: entry for entry in (
    Row(
        name="imagenet", title="ImageNet (ILSVRC 2012)", num_classes=1000,
        # The labels of the official test images are secret: the validation
        # images are both val and test.
        counts={"train": 1_281_167, "val": 50_000, "test": 50_000},
        layout="wnids", folders=("imagenet", "ImageNet"),
        images=("images/{split}", "{split}"),
        prepared=Prepared(
            name="imagenet2012",
            splits={"train": "train", "val": "validation",
                    "test": "validation"}),
        licence="non-commercial research and education, see home page",
        home="https://image-net.org (after registration)",
    ),
    Row(
        name="imagenet_a", title="ImageNet-A", num_classes=200,
        counts={"test": 7_500}, layout="wnids",
        folders=("imagenet-a", "imagenet-adversarial"),
        images=("", "imagenet-a"),
        prepared=Prepared(name="imagenet_a", splits={"test": "test"}),
        licence="see home page",
        home="https://github.com/hendrycks/natural-adv-examples",
        shift=True,
    ),
    Row(
        name="imagenet_v2", title="ImageNetV2 (matched frequency)",
        num_classes=1000, counts={"test": 10_000}, layout="labels",
        folders=("imagenetv2-matched-frequency-format-val", "imagenetv2"),
        images=("", "imagenetv2-matched-frequency-format-val"),
        prepared=Prepared(
            name="imagenet_v2/matched-frequency", splits={"test": "test"}),
        licence="see home page",
        home="https://github.com/modestyachts/ImageNetV2",
        shift=True,
    ),
    Row(
        name="imagenet_r", title="ImageNet-R", num_classes=200,
        counts={"test": 30_000}, layout="wnids",
        folders=("imagenet-r", "imagenet-rendition"),
        images=("", "imagenet-r"),
        prepared=Prepared(name="imagenet_r", splits={"test": "test"}),
        licence="see home page",
        home="https://github.com/hendrycks/imagenet-r",
        shift=True,
    ),
    Row(
        name="imagenet_sketch", title="ImageNet-Sketch", num_classes=1000,
        counts={"test": 50_889}, layout="wnids",
        folders=("imagenet-sketch", "ImageNet-Sketch", "sketch"),
        images=("", "images", "sketch"),
        prepared=Prepared(name="imagenet_sketch", splits={"test": "test"}),
        licence="see home page",
        home="https://github.com/HaohanWang/ImageNet-Sketch",
        shift=True,
    ),
    Row(
        name="imagenet_c", title="ImageNet-C", num_classes=1000,
        counts={"test": 50_000}, layout="wnids",
        folders=("imagenet-c", "ImageNet-C", "imagenet_c"),
        images=("{corruption}/{severity}", "{group}/{corruption}/{severity}"),
        licence="CC BY 4.0",
        home="https://github.com/hendrycks/robustness",
        of_papers=False,
    ),
    Row(
        name="dtd", title="Describable Textures Dataset", num_classes=47,
        counts={"train": 2_820, "val": 1_128, "test": 1_692},
        layout="coop", folders=("dtd", "DTD"), images=("images", ""),
        split_file="split_zhou_DescribableTextures.json",
        few_shot_template="{} texture.",
        prepared=Prepared(name="dtd", every=_SPLITS_TOGETHER),
        licence="see home page",
        home="https://www.robots.ox.ac.uk/~vgg/data/dtd",
        augmix=True,
    ),
    Row(
        name="oxford_flowers", title="Oxford 102 Flowers", num_classes=102,
        counts={"train": 4_093, "val": 1_633, "test": 2_463},
        layout="coop", folders=("oxford_flowers", "Flower102"),
        images=("jpg", ""), split_file="split_zhou_OxfordFlowers.json",
        few_shot_template="a photo of a {}, a type of flower.",
        prepared=Prepared(name="oxford_flowers102", every=_SPLITS_TOGETHER),
        licence="see home page",
        home="https://www.robots.ox.ac.uk/~vgg/data/flowers/102",
        augmix=True,
    ),
    Row(
        name="food101", title="Food-101", num_classes=101,
        counts={"train": 50_500, "val": 20_200, "test": 30_300},
        layout="coop", folders=("food-101", "food101", "Food101"),
        images=("images", ""), split_file="split_zhou_Food101.json",
        few_shot_template="a photo of {}, a type of food.",
        # Keeps file names from its version 2.1.0 on.
        prepared=Prepared(name="food101", every="train+validation"),
        licence="see home page",
        home="https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101",
        augmix=True,
    ),
    Row(
        name="stanford_cars", title="Stanford Cars", num_classes=196,
        counts={"train": 6_509, "val": 1_635, "test": 8_041},
        layout="coop",
        folders=("stanford_cars", "StanfordCars", "StanfordCar"), images=("",),
        split_file="split_zhou_StanfordCars.json",
        prepared=Prepared(name="cars196", splits={"test": "test"}),
        licence="see home page",
        home="its authors at https://ai.stanford.edu/~jkrause/cars/"
             "car_dataset.html (the archives there are gone; copies exist)",
        augmix=True,
    ),
    Row(
        name="sun397", title="SUN397", num_classes=397,
        counts={"train": 15_880, "val": 3_970, "test": 19_850},
        layout="coop", folders=("sun397", "SUN397"), images=("SUN397", ""),
        split_file="split_zhou_SUN397.json",
        # The first of the authors' partitions; made smaller and compressed
        # again, so that the pixels are not those of the files.
        prepared=Prepared(
            name="sun397/standard-part1-120k", splits={"test": "test"}),
        licence="see home page",
        home="https://vision.princeton.edu/projects/2010/SUN",
        augmix=True,
    ),
    Row(
        name="fgvc_aircraft", title="FGVC-Aircraft", num_classes=100,
        counts={"train": 3_334, "val": 3_333, "trainval": 6_667,
                "test": 3_333},
        layout="aircraft",
        folders=("fgvc_aircraft", "fgvc-aircraft-2013b"), images=("", "data"),
        few_shot_template="a photo of a {}, a type of aircraft.",
        licence="non-commercial research, see home page",
        home="https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft",
        augmix=True,
    ),
    Row(
        name="oxford_pets", title="Oxford-IIIT Pet", num_classes=37,
        counts={"train": 2_944, "val": 736, "test": 3_669},
        layout="coop", folders=("oxford_pets", "OxfordPets"),
        images=("images", ""), split_file="split_zhou_OxfordPets.json",
        few_shot_template="a photo of a {}, a type of pet.",
        prepared=Prepared(name="oxford_iiit_pet", splits={"test": "test"}),
        licence="CC BY-SA 4.0",
        home="https://www.robots.ox.ac.uk/~vgg/data/pets",
        augmix=True,
    ),
    Row(
        name="caltech101", title="Caltech 101", num_classes=100,
        counts={"train": 4_128, "val": 1_649, "test": 2_465},
        layout="coop",
        folders=("caltech-101", "caltech101", "Caltech101"),
        images=("101_ObjectCategories", ""),
        split_file="split_zhou_Caltech101.json",
        prepared=Prepared(
            name="caltech101", every="train+test",
            renamed={"airplane": "airplanes", "face": "faces",
                     "leopard": "leopards", "motorbike": "motorbikes"},
            unused=("background_google", "faces_easy")),
        licence="CC BY 4.0",
        home="https://data.caltech.edu/records/mzrjq-6wc02",
        augmix=True,
    ),
    Row(
        name="ucf101", title="UCF101 (middle frames)", num_classes=101,
        counts={"train": 7_639, "val": 1_898, "test": 3_783},
        layout="coop", folders=("ucf101", "UCF101"),
        images=("UCF-101-midframes", ""), split_file="split_zhou_UCF101.json",
        few_shot_template="a photo of a person doing {}.",
        licence="see home page",
        home="https://www.crcv.ucf.edu/data/UCF101.php (videos); the middle "
             "frames from DATASETS.md in https://github.com/KaiyangZhou/CoOp",
        augmix=True,
    ),
    Row(
        name="eurosat", title="EuroSAT (RGB)", num_classes=10,
        counts={"train": 13_500, "val": 5_400, "test": 8_100},
        layout="coop", folders=("eurosat", "EuroSAT"), images=("2750", ""),
        split_file="split_zhou_EuroSAT.json",
        few_shot_template="a centered satellite photo of {}.",
        prepared=Prepared(
            name="eurosat/rgb", every="train",
            renamed={
                "Annual Crop Land": "AnnualCrop",
                "Herbaceous Vegetation Land": "HerbaceousVegetation",
                "Highway or Road": "Highway",
                "Industrial Buildings": "Industrial",
                "Pasture Land": "Pasture",
                "Permanent Crop Land": "PermanentCrop",
                "Residential Buildings": "Residential",
                "Sea or Lake": "SeaLake",
            }),
        licence="MIT",
        home="https://github.com/phelber/EuroSAT",
        augmix=True,
    ),
    Row(
        name="cifar10", title="CIFAR-10", num_classes=10,
        counts={"train": 50_000, "test": 10_000}, layout="cifar",
        folders=("cifar-10-batches-bin", "cifar10", "cifar-10", "CIFAR10"),
        images=("", "cifar-10-batches-bin"),
        prepared=Prepared(
            name="cifar10", splits={"train": "train", "test": "test"}),
        licence="see home page",
        home="https://www.cs.toronto.edu/~kriz/cifar.html (the binary version)",
        of_papers=False,
    ),
    Row(
        name="cifar100", title="CIFAR-100", num_classes=100,
        counts={"train": 50_000, "test": 10_000}, layout="cifar",
        folders=("cifar-100-binary", "cifar100", "cifar-100", "CIFAR100"),
        images=("", "cifar-100-binary"),
        prepared=Prepared(
            name="cifar100", splits={"train": "train", "test": "test"}),
        licence="see home page",
        home="https://www.cs.toronto.edu/~kriz/cifar.html (the binary version)",
        of_papers=False,
    ),
)}


def row(name: str) -> Row:
  """The row of a data set.

  Raises:
    ValueError: If there is none of that name; lists the names.
  """
  if name not in CATALOGUE:
    raise ValueError(
        f"unknown data set {name!r}; {spelling.choices(name, CATALOGUE)}")
  return CATALOGUE[name]


def load(
    name: str,
    root: str | pathlib.Path,
    *,
    split: str = "test",
    source: str = "files",
    partial: bool = False,
    corruption: corruptions.Corruption | None = None,
) -> image_sets.ImageSet:
  """A data set of the catalogue, checked against its row.

  Checked are the class names label by label, the class folders, the presence of
  all listed files and the number of images.

  Args:
    name: A key of `CATALOGUE`.
    root: The folder below which the data sets lie; for the source "tfds" the
      data folder of tensorflow-datasets, with the split file in it (or in
      `data_splits` or the set's usual folder) where one is needed.
    split: One of the keys of the row's `counts`.
    source: "files" as their authors or CoOp lay them out, or "tfds".
    partial: The copy is known to be incomplete: absent files and class folders
      are left out and the number of images is not checked. All classes stay
      candidates.
    corruption: Which images of a set that has them corrupted, ImageNet-C; has
      no meaning for the others.

  Returns:
    The images under the catalogue's name and class names. Ids are the paths in
    the lists or below the folder that has the class folders; from "tfds" those
    in the split file where one is needed, else what `tfds.read` makes of them.

  Raises:
    FileNotFoundError: If the set or some of its files are not there; says where
      it was looked for and how to obtain it.
    ImportError: If the source is "tfds" and it is not installed.
    ValueError: If a name is unknown, or what is found is not what the row says.
  """
  entry = row(name)
  for kind, value, choices in (
      ("split", split, entry.counts), ("source", source, SOURCES)):
    if value not in choices:
      raise ValueError(f"unknown {kind} {value!r} of {name}; choose from: "
                       f"{', '.join(choices)}.")
  published = None
  if is_corrupted(entry):
    entry, published = _of_corruption(entry, corruption)
  read = _READERS[entry.layout] if source == "files" else _read_prepared
  image_set = read(entry, pathlib.Path(root), split, partial)
  _check_names(entry, image_set.class_names)
  _check_count(entry, split, len(image_set.ids), partial)
  return image_set._replace(
      name=name, class_names=entry.class_names, corruption=published)


def is_corrupted(entry: Row) -> bool:
  """Whether a set has its images once for every corruption, as ImageNet-C."""
  return any("{corruption}" in images for images in entry.images)


def _of_corruption(entry, corruption):
  """The row of the images with one corruption, and what identifies it."""
  if corruption is None or corruption.name not in corruptions.GROUPS:
    raise ValueError(
        f"{entry.name} has a folder for each corruption and severity: say "
        "which, with --config.data.corruption=... and "
        "--config.data.severity=...; choose from: "
        f"{', '.join(corruptions.GROUPS)}.")
  name = corruption.name
  of = {"group": corruptions.GROUPS[name], "severity": corruption.severity,
        # As the published folder is called.
        "corruption": name.replace("elastic_inet", "elastic_transform")}
  return dataclasses.replace(entry, images=tuple(
      images.format(**of) for images in entry.images)), (
          corruptions.published(corruption))


def _read_coop(entry, root, split, partial):
  class_names, rows = coop.entries(split_file(entry, root), split)
  folders = image_folders(entry, root, split)
  # Some layouts have the images one level deeper than others.
  images = next(
      (folder for folder in folders
       if any(os.path.isfile(folder / image) for image, _ in rows)), folders[0])
  return sources.listed_files(
      entry.name, class_names, rows, images, partial=partial)


def _read_aircraft(entry, root, split, partial):
  folder = image_folders(entry, root, split, marker="variants.txt")[0]
  return aircraft.read(folder, split=split, partial=partial)


def _read_class_folders(entry, root, split, partial):
  folders = image_folders(entry, root, split)
  # A folder may hold the one that has the classes.
  folder = next(
      (folder for folder in folders
       if any((folder / name).is_dir() for name in entry.class_folders)),
      folders[0])
  absent = [name for name in entry.class_folders
            if not (folder / name).is_dir()]
  if absent and not partial:
    raise FileNotFoundError(
        f"{entry.name} in {folder} has {len(absent)} of its "
        f"{entry.num_classes} class folders missing, such as "
        f"{', '.join(absent[:10])}. {how_to_obtain(entry)}"
    )
  names = dict(zip(entry.class_folders, entry.class_names))
  return sources.image_folder(folder, class_names=names)


def _read_cifar(entry, root, split, partial):
  places = [root / folder / images for folder in entry.folders
            for images in entry.images]
  for place in places:
    if cifar.is_binary(place, entry.num_classes):
      return cifar.read(place, split=split, class_names=entry.class_names)
    if (place / split).is_dir():
      return _in_named_folders(entry, place / split, partial)
  pickles = f"cifar-{entry.num_classes}-" + (
      "batches-py" if entry.num_classes == 10 else "python")
  for place in (*places, *(root / folder / pickles
                           for folder in ("", *entry.folders))):
    cifar.refuse_pickles(place)
  raise FileNotFoundError(
      f"no files of {entry.name} below {root}; looked for .bin files, and for "
      f"{split}/CLASS/ with images, in {', '.join(map(str, places))}. "
      f"{how_to_obtain(entry)}")


def _in_named_folders(entry, folder, partial):
  """Class folders that are called like the classes, in any order."""
  found = {plain(path.name): path.name
           for path in folder.iterdir() if path.is_dir()}
  names = {found.get(plain(name), name): name for name in entry.class_names}
  absent = [name for name in names if not (folder / name).is_dir()]
  if absent and not partial:
    raise FileNotFoundError(
        f"{folder} has no folders {', '.join(absent[:10])}; expected one for "
        f"each of the {entry.num_classes} classes. {how_to_obtain(entry)}")
  return sources.image_folder(folder, class_names=names)


_READERS = {
    "coop": _read_coop,
    "cifar": _read_cifar,
    "aircraft": _read_aircraft,
    "wnids": _read_class_folders,
    "labels": _read_class_folders,
}


def _read_prepared(entry, root, split, partial):
  """The set from tensorflow-datasets, with the catalogue's class names."""
  prepared = entry.prepared
  if prepared is None:
    raise ValueError(f"tensorflow-datasets does not have the images of "
                     f"{entry.name}. {how_to_obtain(entry)}")
  theirs = prepared.every or prepared.splits.get(split)
  if theirs is None:
    raise ValueError(
        f"tensorflow-datasets has no split like {split!r} of {entry.name}, "
        f"only {', '.join(prepared.splits)}; use the source 'files'."
    )
  # Two pairs of ImageNet's classes share a name; tensorflow-datasets calls the
  # classes of ImageNet and its variants by their WordNet ids.
  indices = entry.imagenet_indices
  every = _wnids(range(1000)) if indices else ()
  names = [every[index] for index in indices] or entry.class_names
  image_set = tfds.read(
      root, prepared.name, split=theirs, class_names=names,
      renamed=prepared.renamed,
      unused=prepared.unused + tuple(sorted(set(every) - set(names))),
  )
  image_set = image_set._replace(class_names=entry.class_names)
  if prepared.every:
    return _select(image_set, split_file(entry, root), split, partial)
  return image_set


def _select(image_set, path, split, partial):
  """The images that a split file lists, under the paths that it lists."""
  class_names, rows = coop.entries(path, split)
  positions = {_file_key(file): i for i, file in enumerate(image_set.ids)}
  found, absent = [], []
  for image, label in rows:
    key = _file_key(image)
    # Some sets keep the folders of the paths, some the file names alone.
    position = positions.get(key, positions.get(key.rpartition("/")[2]))
    if position is None:
      absent.append(image)
    else:
      found.append((position, image, label))
  if absent and (not partial or not found):
    raise FileNotFoundError(
        f"{len(absent)} of the {len(rows)} images that {path} lists under "
        f"{split!r} are not in the prepared set, such as "
        f"{', '.join(absent[:10])}; it has file names such as "
        f"{image_set.ids[0]!r}. Is it another version?"
    )
  for position, image, label in found:
    if image_set.labels[position] != label:
      theirs = image_set.class_names[image_set.labels[position]]
      raise ValueError(
          f"{path} gives {image} the label {label} ({class_names[label]!r}), "
          f"but it is prepared as {theirs!r}."
      )
  image_set = image_sets.take(image_set, [position for position, *_ in found])
  return image_set._replace(
      ids=tuple(image for _, image, _ in found), class_names=class_names)


def _file_key(path):
  stem, _, suffix = path.rpartition(".")
  return (stem if f".{suffix.lower()}" in decoding.IMAGE_SUFFIXES else path
          ).lower()


def split_file_places(entry: Row, root: pathlib.Path) -> list[pathlib.Path]:
  """Where the split file of the layout "coop" is looked for, in this order."""
  if entry.split_file is None:
    return []
  places = [root / folder / entry.split_file for folder in entry.folders]
  places += [root / folder / images / entry.split_file
             for folder in entry.folders for images in entry.images if images]
  return places + [
      root / entry.split_file, root / "data_splits" / entry.split_file]


def split_file_home(entry: Row, root: pathlib.Path) -> pathlib.Path:
  """Where a split file belongs: into the set's folder, where this is."""
  assert entry.split_file is not None
  folder = next((root / name for name in entry.folders
                 if (root / name).is_dir()), root / entry.folders[0])
  return folder / entry.split_file


def split_file(entry: Row, root: pathlib.Path) -> pathlib.Path:
  """The split file of the layout "coop".

  Raises:
    FileNotFoundError: There is none; says where it was looked for.
  """
  places = split_file_places(entry, root)
  for place in places:
    if place.is_file():
      return place
  raise FileNotFoundError(
      f"no {entry.split_file} for {entry.name}; looked for "
      f"{', '.join(map(str, places))}. The split files of the CoOp benchmark "
      "are linked from DATASETS.md in https://github.com/KaiyangZhou/CoOp."
  )


def image_folders(
    entry: Row, root: pathlib.Path, split: str, marker: str = "."
) -> list[pathlib.Path]:
  """The folders that exist of those where the images may be.

  Args:
    entry: Row of the set.
    root: Folder below which the sets lie.
    split: Split of the images.
    marker: File that must lie in such a folder.

  Raises:
    FileNotFoundError: There is none; says where it was looked for.
  """
  part = "train" if split == "train" else "val"
  places = [root / folder / images.format(split=part)
            for folder in entry.folders for images in entry.images]
  found = [place for place in places if (place / marker).exists()]
  if not found:
    what = "folder" if marker == "." else marker
    raise FileNotFoundError(
        f"no {what} of {entry.name} below {root}; looked for "
        f"{', '.join(map(str, places))}. {how_to_obtain(entry)}"
    )
  return found


def how_to_obtain(entry: Row) -> str:
  """A sentence on where the set comes from."""
  return f"Obtain {entry.title} from {entry.home}."


def _check_names(entry, found):
  if len(found) != entry.num_classes:
    raise ValueError(
        f"{entry.name} should have {entry.num_classes} classes, found "
        f"{len(found)}. Is a class missing or too many, such as a background "
        f"class? {how_to_obtain(entry)}"
    )
  for label, (theirs, ours) in enumerate(zip(found, entry.class_names)):
    if plain(theirs) != plain(ours):
      raise ValueError(
          f"{entry.name}: label {label} should be {ours!r}, found {theirs!r}. "
          "Predictions would be scored against the wrong classes; use the "
          "lists of the CoOp benchmark or of the data set's authors."
      )


@functools.lru_cache(maxsize=4096)  # asked of every image of a class
def plain(name: str) -> str:
  """A class name without what data sets write in different ways."""
  return name.replace("_", " ").replace("-", " ").lower()


def _check_count(entry, split, found, partial):
  expected = entry.counts[split]
  if found != expected and not partial:
    raise ValueError(
        f"{entry.name} should have {expected:,} images in the split {split!r}, "
        f"found {found:,}. Complete the copy, or pass partial=True "
        "(--config.data.partial) if it is meant to be a part. "
        f"{how_to_obtain(entry)}"
    )


@functools.cache
def _facts():
  path = pathlib.Path(__file__).with_name("class_names.json")
  return json.loads(path.read_text(encoding="utf-8"))


def _wnids(indices):
  wnids = _facts()["imagenet_wnids"]
  return tuple(wnids[index] for index in indices)
