"""What the lists of a benchmark set say, held against its row.

No image is looked for here. Everything that is wrong is told, not the first
thing alone.
"""

import collections
from collections.abc import Iterator, Mapping, Sequence
import csv
import io
import os
import pathlib
import posixpath
import re
from typing import NamedTuple

from jaxcal.data import aircraft
from jaxcal.data import catalogue
from jaxcal.data import coop
from jaxcal.data import findings
from jaxcal.data import text_files
from jaxcal.data.findings import Finding

# Part of the images that must agree with the rest of their folder before the
# folders are trusted to tell classes apart.
_TRUSTED = 0.95


class Entry(NamedTuple):
  """A line of a list.

  Attributes:
    path: Path below the folder of images.
    label: Label as listed.
    name: Class name as listed.
  """

  path: str
  label: int
  name: str


class Lists(NamedTuple):
  """What the lists of a set hold.

  Attributes:
    splits: Entries by split, those that could be read.
    source: File to put right, for messages.
    findings: What could not be read.
  """

  splits: Mapping[str, Sequence[Entry]]
  source: str
  findings: Sequence[Finding]


def read_coop(path: pathlib.Path, mend: str) -> Lists:
  """A split file, with all entries that can be read.

  Args:
    path: The file.
    mend: Step that puts a wrong file right.
  """
  try:
    raw = coop.lists(path)
  except (OSError, ValueError) as error:
    return Lists({}, str(path), [Finding(
        kind=findings.SPLIT_DAMAGED, what=str(error), mend=mend)])
  splits, bad = {}, []
  for split, rows in raw.items():
    unsound = _unsound(rows)
    bad += [f"{split}: {rows[number]!r:.80}" for number in sorted(unsound)]
    splits[split] = [Entry(*row) for number, row in enumerate(rows)
                     if number not in unsound]
  found = [] if not bad else [Finding(
      kind=findings.SPLIT_DAMAGED, mend=mend,
      what=f"{path} has {len(bad)} entries that are no [path below the images, "
           f"label, class name]: {findings.some(bad)}.")]
  return Lists(splits, str(path), found)


def read_aircraft(folder: pathlib.Path, mend: str) -> Lists:
  """FGVC-Aircraft's own lists; labels are those of its list of variants.

  Args:
    folder: The folder that has them.
    mend: Step that puts a wrong file right.
  """
  splits: dict[str, list[Entry]] = {}
  wrong: list[Finding] = []
  variants = _text_lines(folder / "variants.txt", mend, wrong)
  label_of = {name: label for label, name in enumerate(variants)}
  for split in aircraft.SPLITS:
    path = folder / f"images_variant_{split}.txt"
    lines = [line.partition(" ") for line in _text_lines(path, mend, wrong)]
    bad = [" ".join((image, name)) for image, _, name in lines
           if name not in label_of or not image.isalnum()]
    if bad:
      wrong.append(Finding(
          kind=findings.SPLIT_DAMAGED, mend=mend,
          what=f"{path} has {len(bad)} lines that are no number of an image "
               f"and one of the variants: {findings.some(bad)}."))
    splits[split] = [Entry(f"images/{image}.jpg", label_of[name], name)
                     for image, _, name in lines
                     if name in label_of and image.isalnum()]
  return Lists(splits, str(folder / "variants.txt"), wrong)


def of_csv(path: pathlib.Path) -> Iterator[Finding]:
  """Everything that is wrong with the lines of a CSV file of images.

  Args:
    path: The file, with the columns path and label.
  """
  try:
    with io.StringIO(text_files.read(path), newline="") as file:
      rows = list(csv.DictReader(file))
  except (OSError, ValueError, csv.Error):
    return  # told already, as what could not be read
  if not rows or not {"path", "label"} <= set(rows[0]):
    return
  blank, absent, seen = [], [], collections.Counter[str]()
  for number, row in enumerate(rows, start=2):
    image, label = row["path"] or "", row["label"] or ""
    if not image.strip() or not label.strip():
      blank.append(f"line {number}")
    elif not os.path.isfile(path.parent / image):
      absent.append(image)
    seen[posixpath.normpath(image)] += 1
  twice = [image for image, count in seen.items() if count > 1]
  for kind, what, told in (
      (findings.SPLIT_DAMAGED, "lines without path or label", blank),
      (findings.FILES_ABSENT, "listed files that are not there", absent),
      (findings.REPEATED, "images that are listed twice", twice)):
    if told:
      yield Finding(
          kind=kind, what=f"{path} has {len(told)} {what}: "
                          f"{findings.some(told)}.",
          mend="mend or remove these lines")


def of_other_set(entry: catalogue.Row, lists: Lists) -> str | None:
  """The set whose classes the lists have; None if it is the right one."""
  names = {catalogue.plain(one.name)
           for rows in lists.splits.values() for one in rows}
  shared = {
      name: len(names & set(map(catalogue.plain, row.class_names))) /
      max(len(names), row.num_classes)
      for name, row in catalogue.CATALOGUE.items()}
  best = max(shared, key=lambda name: shared[name])
  if shared[best] > 0.9 and shared[entry.name] < 0.5:
    return best
  return None


def check(entry: catalogue.Row, lists: Lists, mend: str) -> Iterator[Finding]:
  """Findings on names, labels, repetitions, overlaps and counts.

  Args:
    entry: Row of the set.
    lists: Lists of the set.
    mend: Step that puts a wrong list right.
  """
  rows = [one for entries in lists.splits.values() for one in entries]
  yield from _names(entry, lists, rows, mend)
  wrong = set()
  for finding, entries in _labels(entry, lists, rows, mend):
    wrong |= entries
    yield finding
  sound = [one for one in rows if one not in wrong]
  yield from _against_folders(lists, sound, mend)
  yield from _against_names_of_folders(entry, lists, sound, mend)
  yield from _repeated(lists, mend)
  for split, entries in lists.splits.items():
    if len(entries) != entry.counts[split]:
      yield Finding(
          kind=findings.COUNT, mend=mend,
          what=f"{lists.source} lists {len(entries):,} images under {split!r}, "
               f"not {entry.counts[split]:,}.")


def _names(entry, lists, rows, mend):
  """Classes that the catalogue lacks, or that the lists lack."""
  known = set(map(catalogue.plain, entry.class_names))
  found = collections.Counter(one.name for one in rows)
  extra = [f"{name!r} ({count} images)" for name, count in found.items()
           if catalogue.plain(name) not in known]
  listed = set(map(catalogue.plain, found))
  absent = [repr(name) for name in entry.class_names
            if catalogue.plain(name) not in listed]
  if extra:
    yield Finding(
        kind=findings.CLASS_NAMES, mend=mend,
        what=f"{lists.source} has {len(extra)} classes that are none of the "
             f"{entry.num_classes}: {findings.some(extra)}.")
  if absent and rows:
    yield Finding(
        kind=findings.CLASS_NAMES, mend=mend,
        what=f"{lists.source} lacks {len(absent)} of the {entry.num_classes} "
             f"classes: {findings.some(absent)}.")


def _labels(entry, lists, rows, mend):
  """What labels are not those of their class names, and in what manner."""
  label_of = {catalogue.plain(name): label
              for label, name in enumerate(entry.class_names)}
  known = [one for one in rows if catalogue.plain(one.name) in label_of]
  right = {one: label_of[catalogue.plain(one.name)] for one in known}
  wrong = [one for one in known if one.label != right[one]]
  if not wrong:
    return
  shifts = {one.label - right[one] for one in wrong}
  if len(wrong) == len(known) and len(shifts) == 1:
    shift, = shifts
    yield Finding(
        kind=findings.LABELS,
        what=f"all {len(wrong):,} labels of {lists.source} are {abs(shift)} "
             f"too {'high' if shift > 0 else 'low'}: {entry.class_names[0]!r} "
             f"has {shift} in place of 0.",
        mend=f"{'subtract' if shift > 0 else 'add'} {abs(shift)} "
             f"{'from' if shift > 0 else 'to'} every label, or {mend}"
    ), set(wrong)
    return
  names_of, labels_of = (collections.defaultdict(set) for _ in range(2))
  for one in known:
    names_of[one.label].add(one.name)
    labels_of[one.name].add(one.label)
  moved = {one for one in wrong
           if len(names_of[one.label]) == len(labels_of[one.name]) == 1}
  if moved:
    classes = {one.name: one for one in wrong if one in moved}
    told = [f"{name!r} has label {one.label} in place of {right[one]}"
            for name, one in classes.items()]
    yield Finding(
        kind=findings.CLASS_ORDER, mend=mend,
        what=f"{lists.source} has {len(classes)} classes in another order: "
             f"{findings.some(told)}."), moved
  single = [one for one in wrong if one not in moved]
  if single:
    told = [f"{one.path} is a {one.name!r} with label {one.label} in place of "
            f"{right[one]}" for one in single]
    yield Finding(
        kind=findings.LABELS, mend=f"write these labels, or {mend}",
        what=f"{len(single)} entries of {lists.source} have a label that is "
             f"not that of their class name: {findings.some(told)}."
    ), set(single)


def _against_folders(lists, rows, mend):
  """Images listed under another class than the rest of their folder."""
  for key_of in (posixpath.dirname, _stem):
    of_key: dict[str, collections.Counter[int]] = (
        collections.defaultdict(collections.Counter))
    for one in rows:
      of_key[key_of(one.path)][one.label] += 1
    most = {key: labels.most_common(1)[0][0] for key, labels in of_key.items()}
    odd = [one for one in rows if one.label != most[key_of(one.path)]]
    if len(odd) <= (1 - _TRUSTED) * len(rows):
      break
  else:
    return
  if odd:
    name_of = {one.label: one.name for one in rows}
    told = [f"{one.path} as {one.name!r}, not "
            f"{name_of[most[key_of(one.path)]]!r}" for one in odd]
    yield Finding(
        kind=findings.LABELS, mend=f"list them as their folder says, or {mend}",
        what=f"{lists.source} lists {len(odd)} images under another class than "
             f"the rest of their folder: {findings.some(told)}.")


def _against_names_of_folders(entry, lists, rows, mend):
  """Folders that are called like one class and listed as another."""
  label_of = {catalogue.plain(name): label
              for label, name in enumerate(entry.class_names)}
  listed: dict[str, collections.Counter[int]] = (
      collections.defaultdict(collections.Counter))
  for one in rows:
    listed[posixpath.dirname(one.path)][one.label] += 1
  told = []
  for folder, labels in listed.items():
    own = label_of.get(catalogue.plain(posixpath.basename(folder)))
    label = labels.most_common(1)[0][0]
    if own not in (None, label) and 0 <= label < entry.num_classes:
      told.append(f"{folder} as {entry.class_names[label]!r}")
  if told:
    yield Finding(
        kind=findings.LABELS, mend=mend,
        what=f"{lists.source} lists {len(told)} folders as other classes than "
             f"they are called: {findings.some(told)}.")


def _repeated(lists, mend):
  """Paths that occur twice, in one split or in two."""
  splits_of = collections.defaultdict(list)
  for split, entries in lists.splits.items():
    for one in entries:
      splits_of[posixpath.normpath(one.path)].append(split)
  twice = [path for path, splits in splits_of.items()
           if len(set(splits)) < len(splits)]
  if twice:
    yield Finding(
        kind=findings.REPEATED, mend=f"leave one of each, or {mend}",
        what=f"{lists.source} lists {len(twice)} images more than once in a "
             f"split: {findings.some(twice)}.")
  both: dict[Sequence[str], list[str]] = collections.defaultdict(list)
  for path, found in splits_of.items():
    # FGVC-Aircraft has both of its parts in trainval by intent.
    several = tuple(split for split in dict.fromkeys(found)
                    if split != "trainval" or "test" in found)
    if len(several) > 1:
      both[several].append(path)
  for splits, paths in both.items():
    yield Finding(
        kind=findings.OVERLAP, mend=mend,
        what=f"{len(paths)} images of {lists.source} are in "
             f"{' and in '.join(splits)}: {findings.some(paths)}.")


def _unsound(rows):
  """Where entries have not the right form or do not stay below the images."""
  odd = set(coop.odd_entries(rows))
  return odd | {
      number for number, row in enumerate(rows) if number not in odd and (
          not row[0] or "\0" in row[0] or posixpath.isabs(row[0])
          or ".." in row[0].split("/"))}


def _stem(path):
  """The path without the number at its end."""
  return re.sub(r"[_\- ]?\d+$", "", posixpath.splitext(path)[0])


def _text_lines(path, mend, wrong: list[Finding]) -> Sequence[str]:
  try:
    lines = text_files.read(path).splitlines()
  except FileNotFoundError as error:
    wrong.append(Finding(kind=findings.SPLIT_ABSENT, what=str(error),
                         mend=mend))
    return ()
  except (OSError, ValueError) as error:
    wrong.append(Finding(kind=findings.SPLIT_DAMAGED, what=str(error),
                         mend=mend))
    return ()
  return [line.strip() for line in lines if line.strip()]
