"""What a look at a data set found: each thing with what puts it right."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses

from jaxcal import spelling

# What is wrong.
ABSENT = "set not there"
SPLIT_ABSENT = "split file missing"
SPLIT_DAMAGED = "split file damaged"
SPLIT_OF_OTHER = "split file of another set"
LAYOUT = "not read"
CLASS_NAMES = "class names"
CLASS_ORDER = "class order"
LABELS = "labels"
REPEATED = "listed twice"
OVERLAP = "splits overlap"
COUNT = "number of images"
FILES_ABSENT = "files missing"
FOLDER_ABSENT = "class folder missing"
FOLDER_RENAMED = "class folder renamed"
FOLDERS_SWAPPED = "class folders swapped"
FOLDER_EXTRA = "extra class folder"
IMAGES = "damaged images"
CONTENTS = "same content"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
  """One thing that is wrong.

  Attributes:
    kind: Kind of it, one of the constants above.
    what: Sentence on what was found, with names and numbers.
    mend: Command or step that puts it right.
  """

  kind: str
  what: str
  mend: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Count:
  """Images of a split.

  Attributes:
    split: Name of the split.
    listed: Number of images that a list or the folders name.
    there: Number of those that lie on disk.
    expected: Number in the catalogue; None of a set of one's own.
  """

  split: str
  listed: int
  there: int
  expected: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Report:
  """What a look at a whole set found.

  Attributes:
    name: Name of the set.
    layout: Sentence on how it lies on disk.
    counts: Images by split.
    num_classes: Number of classes that were found.
    looked_at: Sentence on how many images were decoded, or otherwise looked at.
    contents: Digest by split of ids, labels and what the files hold.
    findings: What is wrong, nothing if the set is clean.
    notes: What is to be known and needs no mending.
  """

  name: str
  layout: str
  counts: tuple[Count, ...] = ()
  num_classes: int = 0
  looked_at: str = ""
  contents: Mapping[str, str] = dataclasses.field(default_factory=dict)
  findings: tuple[Finding, ...] = ()
  notes: tuple[str, ...] = ()


def text(report: Report) -> str:
  """A report to be read, the verdict last."""
  return "\n".join(_lines(report))


def some(names: Sequence[str]) -> str:
  """The first names of many, and how many more there are."""
  return ", ".join(spelling.shortened(names))


def _lines(report: Report) -> Iterator[str]:
  yield f"{report.name}: {report.layout}"
  for count in report.counts:
    expected = ("" if count.expected is None else
                f", the catalogue has {count.expected:,}")
    yield (f"  {count.split}: {count.listed:,} images listed, "
           f"{count.there:,} there{expected}")
  if report.num_classes:
    yield f"  {report.num_classes} classes"
  if report.looked_at:
    yield f"  {report.looked_at}"
  for split, digest in report.contents.items():
    yield f"  {split}: contents {digest}"
  for note in report.notes:
    yield f"  note: {note}"
  for number, finding in enumerate(report.findings, start=1):
    yield f"{number}. {finding.kind}: {finding.what}"
    yield f"   mend: {finding.mend}"
  found = len(report.findings)
  yield (f"{report.name} is clean" if not found else
         f"{report.name}: {found} finding{'s' if found > 1 else ''}")
