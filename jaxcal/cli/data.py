"""`jaxcal data`: which image sets there are, and whether they are whole."""

import os
import pathlib

from absl import flags

from jaxcal import listing
from jaxcal import progress
from jaxcal.cli import shared_flags
from jaxcal.data import check
from jaxcal.data import findings
from jaxcal.data import load
from jaxcal.data import prepare

EXAMPLES = (
    "jaxcal data list --root=datasets",
    "jaxcal data check caltech101 --root=datasets",
    "jaxcal data check path/to/images",
    "jaxcal data prepare caltech101 --root=datasets --archives=downloads")
_ABOUT = """\
list names the image sets: classes, images by split, layout, licence, where to
obtain them, and what is found below --root.

check NAME looks at a benchmark set below --root, or at a folder, list, parquet
file or tars of your own: layout, files against the catalogue, class order and
names, splits, and every image. Each finding comes with what mends it; all are
told. The exit status is 0 if the set is clean and 1 with findings.

prepare NAME unpacks the archives of a benchmark set, as its home calls them,
from --archives to where it belongs below --root, puts its split file in place
and checks it. Nothing is downloaded, nothing is written outside of --root, and
a second run goes on where the first one was stopped."""

_ROOT = shared_flags.define_path(
    "root", None, "folder that holds the benchmark sets")
_ARCHIVES = shared_flags.define_path(
    "archives", None, "of prepare: folder with the archives and the split file")
_HEADERS_ONLY = flags.DEFINE_bool(
    "headers_only", False, "look at the headers of images alone, which is "
    "quick and does not find files that were cut off")
_SPLIT = flags.DEFINE_string(
    "split", "test", "of check: split of parquet files of your own; of "
    "benchmark sets all are checked")
_CLASS_NAMES = shared_flags.define_path(
    "class_names", None, "of check: text file with the class names of a path "
    "of your own, one per line in label order")

_OWN = ("root", "archives", "headers_only", "split", "class_names")
FLAGS = (*_OWN, "debug")
FIELDS: tuple[str, ...] = ()  # no model is run
_ACTIONS = ("list", "check", "prepare")


def help_text() -> str:
  """What `jaxcal data --help` prints."""
  return "\n".join([
      _ABOUT, "", "Examples:", *(f"  {example}" for example in EXAMPLES), "",
      "Flags:", *shared_flags.flag_help(*FLAGS)])


def main(action: str, *names: str) -> int:
  """Lists, checks or prepares image sets; returns the exit status.

  Raises:
    ValueError: An unknown action, or not one name where it needs one.
  """
  if action not in _ACTIONS:
    raise ValueError(f"unknown {action!r}; choose from: {', '.join(_ACTIONS)}, "
                     f"as in: {EXAMPLES[1]}")
  if len(names) != (action != "list"):
    raise ValueError(f"{action} takes {'no' if action == 'list' else 'one'} "
                     f"name, got {len(names)}; for example: "
                     f"{EXAMPLES[_ACTIONS.index(action)]}")
  if action == "list":
    root = pathlib.Path(_ROOT.value) if _ROOT.value else None
    print("\n".join(listing.image_sets(root)))
    return 0
  name, = names
  if action == "prepare":
    _prepare(name)
  report = _check(name)
  print(findings.text(report))
  return 1 if report.findings else 0


def _check(name: str) -> findings.Report:
  """Looks at a set of any kind."""
  with progress.reported(f"{load.name_of(name)}: images") as reported:
    look = check.Look(_HEADERS_ONLY.value, progress=reported)
    if load.is_benchmark(name):
      return check.benchmark(name, _needed_root(name), look)
    if load.is_known(name):
      return check.own(load.images(name), "ships with jaxcal", look)
    return check.own_path(os.path.expanduser(name), look, split=_SPLIT.value,
                          names_file=_CLASS_NAMES.value)


def _prepare(name: str) -> None:
  """Unpacks a set, saying what will be done and what was done."""
  if _ARCHIVES.value is None:
    raise ValueError("--archives is missing, the folder with the archives that "
                     f"you fetched; for example: {EXAMPLES[-1]}")
  planned = prepare.plan(name, _ARCHIVES.value, _needed_root(name))
  print(prepare.text(planned))
  with progress.of_stages(dict.fromkeys(map(
      lambda step: step.archive.name, planned.steps), "file")) as report:
    for done in prepare.carry_out(planned, progress=report):
      print(done)


def _needed_root(name: str) -> str:
  if _ROOT.value is None:
    raise ValueError(f"--root is missing, the folder that holds {name}; for "
                     f"example: {EXAMPLES[1]}")
  return _ROOT.value
