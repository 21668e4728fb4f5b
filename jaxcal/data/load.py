"""A name or a path becomes an image set, or pairs of image and caption.

  from jaxcal.data import load
  load.images("digits")                       # ships with jaxcal
  load.images("dtd", root="~/data")           # a benchmark set below a folder
  load.images("photos")                       # a folder of a folder per class
  load.images("photos", store="features")     # what was seen of it
  load.images("photos", corruption=corruptions.Corruption("fog", 3))
  load.pairs("laion/{00000..00059}.tar")      # as img2dataset writes them
"""

from collections.abc import Callable
import os
import pathlib
from typing import Any

from absl import logging
import numpy as np

from jaxcal import spelling
from jaxcal.data import catalogue
from jaxcal.data import class_names as names_lib
from jaxcal.data import contents
from jaxcal.data import corruptions
from jaxcal.data import domains
from jaxcal.data import image_set as image_sets
from jaxcal.data import layouts
from jaxcal.data import pairs as pairs_lib
from jaxcal.data import screening
from jaxcal.data import tfds
from jaxcal.features import store as stores
from jaxcal.storage import identity
from jaxcal.storage import paths
from jaxcal.testbed import sets as testbed_sets
from jaxcal.tuning import protocol

# Numbers of pairs where none is given: of the testbed, and as published.
TESTBED_PAIRS = 8192
PUBLISHED_PAIRS = 327_680
_CLASSES = ("all", "base", "new")
# What may be done about images that cannot be used.
ON_BAD_IMAGE = ("fail", "skip")


def images(
    name: str | os.PathLike,
    *,
    root: str | os.PathLike | None = None,
    split: str = "test",
    domain: str | None = None,
    source: str = "files",
    partial: bool = False,
    class_names: str | os.PathLike | None = None,
    store: str | os.PathLike | None = None,
    classes: str = "all",
    limit: int = 0,
    skip: int = 0,
    on_bad_image: str = "fail",
    num_threads: int = 4,
    corruption: corruptions.Corruption | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> image_sets.ImageSet:
  """An image set by its name or its path, looked at before hours are spent.

  The name of a set that ships with jaxcal, or of a benchmark set, means that
  set in every folder; a folder of the same name is told from it by a separator,
  as in "./digits", or by being a `pathlib.Path`. A leading ~ is the home
  folder.

  Args:
    name: A name of `testbed.sets.NAMES` or of `catalogue.CATALOGUE`, a folder
      with one sub-folder per class, or another path that `layouts.read` takes.
    root: Folder that holds the benchmark sets, see `catalogue.load`.
    split: Split of the shipped and of the benchmark sets, and of parquet files.
    domain: Domain that is kept, of a folder of domains; None for all.
    source: Source of the benchmark sets, see `catalogue.load`.
    partial: Whether benchmark sets may lack files.
    class_names: Text file with the class names of a folder or CSV file, see
      `class_names.read`.
    store: Folder with a feature store for each set; the images are then not
      needed, and cannot be read.
    classes: Classes that are kept, as images and as candidates: "all", or
      "base" or "new", the halves of few-shot tuning.
    limit: Number of images to keep, spread over the classes; 0 for all.
    skip: Number of images to leave out before these, see `image_set.limit`.
    on_bad_image: What is done about images that cannot be used, of those that
      would be kept: "fail", or "skip", which decodes every one and leaves out
      what cannot be, see `screening`.
    num_threads: Threads that look at files.
    corruption: Corruption of the images; of imagenet_c, which of its folders.
    progress: Function called with (files looked at, files in all) after each
      file.

  Returns:
    The images. Their name is that of the set, or the path's last part.

  Raises:
    FileNotFoundError: If there is no such file, folder or store.
    ValueError: If the name is unknown, or what lies there is no image set, has
      images that cannot be used, or has changed since its features were stored.
  """
  for what, value, choices in (("classes", classes, _CLASSES),
                               ("on_bad_image", on_bad_image, ON_BAD_IMAGE)):
    if value not in choices:
      raise ValueError(
          f"unknown {what}={value!r}; choose from: {', '.join(choices)}.")
  if corruption is not None:
    corruptions.check(corruption)
  is_path = not isinstance(name, str)
  name = os.path.expanduser(name)
  if store is not None:
    found = _stored(name, store, class_names, is_path, split)
    _check_corruption(found, store, corruption)
  elif is_path or not is_known(name):
    found = _own(name, class_names, split)
  else:
    if domain is not None:
      raise ValueError(f"{name} has no domains; leave out domain "
                       "(--config.data.domain)")
    _say_if_folder(name, root)
    found = _known(name, root, split, source, partial, corruption)
    _refuse_share(found, corruption)
  if domain is not None:
    found = domains.keep(found, domain)
  found = _of_classes(found, classes)
  paths.check_name(found.name)  # of folders and files
  if limit or skip:
    found = image_sets.limit(found, limit or len(found.ids), skip=skip)
  if store is not None:
    return found  # no images are at hand
  if is_path or name not in testbed_sets.NAMES:  # which are drawn
    if on_bad_image == "skip":
      found = screening.usable(
          found, num_threads=num_threads, progress=progress)
    else:
      screening.check(found, num_threads=num_threads, progress=progress)
  if corruption is not None and found.corruption is None:
    found = corruptions.corrupted(found, corruption)
  return found


def class_names(
    name: str | os.PathLike,
    *,
    names_file: str | os.PathLike | None = None,
    classes: str = "all",
) -> tuple[str, ...]:
  """The candidates of an image set in label order, by its name or its path.

  No image is needed for the sets that `images` knows by name.

  Args:
    name: Name or path, as `images` takes it.
    names_file: Text file with the class names of a folder or CSV file.
    classes: Classes that are kept, as `images` has them.

  Raises:
    FileNotFoundError: If there is no such file or folder.
    ValueError: If the name is unknown, or what lies there is no image set.
  """
  if isinstance(name, str) and name in testbed_sets.NAMES:
    return images(name, classes=classes).class_names
  if not isinstance(name, str) or name not in catalogue.CATALOGUE:
    found = _own(os.path.expanduser(name), names_file)
    return _of_classes(found, classes).class_names
  names = catalogue.CATALOGUE[name].class_names
  if classes == "all":
    return names
  base, new = protocol.halves(np.arange(len(names)))
  return tuple(names[label] for label in (base if classes == "base" else new))


def pairs(
    source: str | os.PathLike = "testbed",
    *,
    num_pairs: int | None = None,
    root: str | os.PathLike | None = None,
    split: str = "train",
    progress: Callable[[int, int], None] | None = None,
) -> pairs_lib.PairSet:
  """Images with captions by their source, the first ones of it.

  Pairs of labelled images and templates are made by `pairs.labelled`.

  Args:
    source: "testbed" (fresh draws from the shipped model's training scenes), a
      CSV file, see `pairs.csv_file`, tars, see `pairs.webdataset`, or
      "tfds:NAME" for captions that tensorflow-datasets prepared.
    num_pairs: Number of pairs at most; `TESTBED_PAIRS` or `PUBLISHED_PAIRS`
      if None.
    root: Folder that holds prepared sets, for "tfds:NAME".
    split: Split of a prepared set.
    progress: Function called with (tars looked at, tars in all).

  Raises:
    FileNotFoundError: Nothing lies there.
    ValueError: There are no usable pairs, or no root is given.
  """
  if source == "testbed":
    # Late: behind it is the training program, whose imports take a while.
    from jaxcal.testbed import pairs as testbed_pairs
    return testbed_pairs.load(num_pairs or TESTBED_PAIRS)
  number, path = num_pairs or PUBLISHED_PAIRS, os.path.expanduser(source)
  if isinstance(source, str) and source.startswith("tfds:"):
    if root is None:
      raise ValueError(f"--pairs={source} needs the folder that holds prepared "
                       "sets: --config.data.root=...")
    return pairs_lib.limit(tfds.read_pairs(
        os.path.expanduser(root), source.removeprefix("tfds:"), split=split),
                           number)
  if layouts.suffix_of(path) == ".csv":
    return pairs_lib.limit(pairs_lib.csv_file(path), number)
  return pairs_lib.webdataset(path, max_pairs=number, progress=progress)


def is_known(name: str) -> bool:
  """Whether this is the name of a shipped or a benchmark set."""
  return name in testbed_sets.NAMES or is_benchmark(name)


def is_benchmark(name: str) -> bool:
  """Whether this is the name of a benchmark set."""
  return name in catalogue.CATALOGUE


def name_of(name: str | os.PathLike) -> str:
  """What the image set is called that has this name or path."""
  return layouts.name_of(os.path.expanduser(name))


def open_store(
    folder: str | os.PathLike, name: str | os.PathLike) -> stores.Store:
  """The stored features of an image set.

  Args:
    folder: Folder with a store for each set.
    name: Name or path of the set.

  Raises:
    FileNotFoundError: See `features.store.open_store`.
    ValueError: The name cannot be that of a folder, or the store is damaged.
  """
  return stores.open_store(
      paths.inside(os.path.expanduser(folder), name_of(name)))


def kind_of_features(
    store: str | os.PathLike | None, name: str | os.PathLike) -> str:
  """Whether features are computed or come from a store, and as what.

  Args:
    store: Folder with a store for each set; None without.
    name: Name or path of an image set.
  """
  if store is None:
    return "computed"
  return f"stored as {open_store(store, name).manifest.dtype}"


def identity_of(
    found: image_sets.ImageSet,
    *,
    store: str | os.PathLike | None = None,
    memory: pathlib.Path | None = None,
    num_threads: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
  """`contents.identity_of`, also of images of which features alone are there.

  Args:
    found: Image set from `images`.
    store: Folder with a store for each set, of which counts what it was made
      of; None where the images are at hand.
    memory: See `contents.identity_of`, as the others.
    num_threads: Threads that read files.
    progress: Function called with (files looked at, files in all).
  """
  if store is None:
    return contents.identity_of(
        found, memory=memory, num_threads=num_threads, progress=progress)
  return identity.of_data(found.ids, found.labels, found.class_names) | {
      "data.contents":
          open_store(store, found.name).manifest.contents_fingerprint,
      **(found.corruption or {})}


def _known(name, root, split, source, partial, corruption):
  """A shipped or a benchmark set."""
  if name in testbed_sets.NAMES:
    return testbed_sets.load(name, split=split)
  if root is None:
    raise ValueError(
        f"{name} is a benchmark set: name the folder that holds it (root, "
        f"--config.data.root), or write ./{name} for a folder of your own")
  return catalogue.load(name, os.path.expanduser(root), split=split,
                        source=source, partial=partial, corruption=corruption)


def _refuse_share(found, corruption):
  """Refuses a share of images that are corrupted where they lie."""
  if found.corruption is not None and corruption.share < 1:
    raise ValueError(
        f"the files of {found.name} are all corrupted, so that a share of "
        f"{corruption.share:g} cannot be; leave out "
        "--config.stream.corrupted_share, or corrupt another image set")


def _own(name, class_names, split="test"):
  """A folder, list, parquet file or tar of one's own."""
  found = _listed(name, class_names, split)
  if found is None:
    known = [*testbed_sets.NAMES, *catalogue.CATALOGUE]
    raise ValueError(
        f"unknown image set {name!r}: no folder and no .csv, .txt, .parquet "
        f"or .tar file of that name here; {spelling.choices(name, known)} On "
        "the command line a comma separates names, unless a path with the "
        "comma exists.")
  for names in names_lib.alike(found.class_names):
    logging.warning(
        "%s: %d classes are called the same up to case and spaces (%s): they "
        "have the same prompt and share its probability.", found.name,
        len(names), ", ".join(map(repr, names)))
  if len(found.class_names) == 1:
    logging.warning(
        "%s: the only class is %r: all predictions are of it, with probability "
        "1, and no measure tells anything.", found.name, found.class_names[0])
  return found


def _listed(name, class_names, split):
  """What lies at a path of one's own; None where nothing does."""
  if class_names is not None:
    class_names = os.path.expanduser(class_names)
  found = layouts.read(name, split=split, names_file=class_names)
  return found and found.images


def _say_if_folder(name, root):
  """Tells of a folder that is not read, since a known set has its name."""
  if not os.path.isdir(name) or (
      root is not None and os.path.isdir(os.path.expanduser(root)) and
      os.path.samefile(os.path.expanduser(root), os.curdir)):
    return
  logging.warning(
      "%s is the image set of that name that %s, not the folder here; for the "
      "folder write ./%s.", name,
      "ships with jaxcal" if name in testbed_sets.NAMES else
      "is a benchmark", name)


def _stored(name, folder, class_names, is_path, split):
  """The images of a store, if those at hand are still the same."""
  store = open_store(folder, name)
  if os.path.exists(name) and (is_path or not is_known(name)):
    _check_files(store, name, class_names, split)
  return stores.image_set(store)


def _check_corruption(found, store, asked):
  """Refuses stored features of images that were corrupted in another way."""
  stored = found.corruption or {}
  for name, field, whole in (
      ("name", "data.corruption", None), ("severity", "data.severity", None),
      ("of", "data.corruption_of", None),
      ("seed", "data.corruption_seed", None),
      ("share", "stream.corrupted_share", 1.0)):
    value = whole if asked is None else getattr(asked, name)
    kept = stored.get(field, whole)
    # Files have no seed, and are no crops.
    if value != kept and not (
        stored.get("data.corruption_of") == "files" and name in ("of", "seed")):
      raise ValueError(
          f"the store of {found.name} in {store} has features of images with "
          f"{field.partition('.')[2]} {kept!r}, not {value!r}; make one with "
          "`jaxcal features --config.data.corruption=... "
          "--config.data.severity=...` in a folder of its own, or leave out "
          "--config.data.store")


def _check_files(store, name, class_names, split):
  """Refuses stored features where the images at hand are others by now."""
  found = _listed(name, class_names, split)
  if found is None:
    return
  found = image_sets.take(found, np.flatnonzero(
      [image_id not in store.left_out for image_id in found.ids]))
  now = contents.identity_of(found)["data.contents"]
  if (stores.data_fingerprint(found), now) != (
      store.manifest.data_fingerprint, store.manifest.contents_fingerprint):
    raise ValueError(
        f"{store.folder} holds features of what {name} held before: its images "
        "or their names have changed since; run `jaxcal features` again with "
        "another --store, or name the set without its path to use the stored "
        "ones all the same")


def _of_classes(found, which):
  """All of the images, or those of the base or the new classes."""
  if which == "all":
    return found
  base, new = protocol.halves(np.arange(len(found.class_names)))
  return protocol.keep_classes(found, base if which == "base" else new)
