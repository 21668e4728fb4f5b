"""Folders of domains, each with the same classes: Office-Home and its like.

  ROOT/Art/Alarm_Clock/00001.jpg
  ROOT/Clipart/Alarm_Clock/00001.jpg
"""

from collections.abc import Mapping, Sequence
import os
import pathlib

import numpy as np

from jaxcal.data import folders
from jaxcal.data import image_set as image_sets
from jaxcal.data import sources

# Parts of a set that are called so are its splits, not domains.
_SPLITS = frozenset((
    "train", "training", "val", "valid", "validation", "dev", "test",
    "testing"))


def names(root: str | os.PathLike) -> tuple[str, ...]:
  """The domains in a folder, sorted; none where it is of another layout.

  Domains are two folders or more of folders of images, without images beside
  these. They have two classes or more in common, so that a folder of images in
  each class folder is none, and neither they nor classes are called like
  splits.

  Args:
    root: The folder that may have domains.
  """
  found = [entry for entry in folders.entries(root) if folders.is_folder(entry)]
  if len(found) < 2 or {entry.name.lower() for entry in found} & _SPLITS:
    return ()
  shared = set.intersection(*(
      set(filter(_holds_images(entry.path), _classes(entry.path)))
      for entry in found))
  if len(shared) < 2 or {name.lower() for name in shared} & _SPLITS:
    return ()
  return tuple(entry.name for entry in found)


def read(
    root: str | os.PathLike,
    *,
    class_names: Sequence[str] | Mapping[str, str] | None = None,
) -> image_sets.ImageSet:
  """The images of all domains; their ids begin with the domain.

  Args:
    root: The folder of the domains.
    class_names: Names of the sorted class folders of all domains together, or a
      mapping from class folder to name, as `sources.image_folder` takes them.

  Returns:
    The images, domain by domain, then class by class. A class that a domain
    lacks stays a candidate.

  Raises:
    ValueError: There are no domains, or the names do not fit the folders.
  """
  root = folders.existing(root)
  domains = names(root)
  if not domains:
    raise ValueError(f"{root} has no domains: expected two folders or more of "
                     "the same class folders")
  found = {name for domain in domains for name in _classes(root / domain)}
  ordered = sorted(found, key=int if all(
      name.isdecimal() for name in found) else None)
  named = sources.names_by_folder(root, ordered, class_names)
  rows = [(f"{domain}/{folder}/{image}", label)
          for domain in domains
          for label, folder in enumerate(named)
          if (root / domain / folder).is_dir()
          for image in folders.image_names(root / domain / folder)]
  return sources.listed_files(
      folders.name_of(root), tuple(named.values()), rows, root)


def keep(found: image_sets.ImageSet, domain: str) -> image_sets.ImageSet:
  """The images of one domain; all classes stay candidates.

  Args:
    found: Images whose ids are DOMAIN/CLASS/FILE.
    domain: Name of the domain.

  Raises:
    ValueError: There are no domains, or none of that name; lists them.
  """
  parts = [pathlib.PurePosixPath(image_id).parts for image_id in found.ids]
  if min(map(len, parts)) < 3:
    raise ValueError(
        f"{found.name!r} has no domains, so there is none called {domain!r}; "
        "expected ROOT/DOMAIN/CLASS/FILE, see docs/data.md")
  rows = [row for row, part in enumerate(parts) if part[0] == domain]
  if not rows:
    known = sorted({part[0] for part in parts})
    raise ValueError(f"{found.name!r} has no domain {domain!r}; choose from: "
                     f"{', '.join(known)}")
  return image_sets.take(found, np.array(rows))


def _classes(folder) -> list[str]:
  """The class folders of what may be a domain; none with images beside them."""
  entries = folders.entries(folder)
  if any(folders.is_image(entry.name) for entry in entries):
    return []
  return [entry.name for entry in entries if folders.is_folder(entry)]


def _holds_images(folder):
  """Whether a folder of some name in a folder has images."""
  return lambda name: any(
      folders.is_image(entry.name)
      for entry in folders.entries(os.path.join(folder, name)))
