"""The names that configs and flags take, as lines with a sentence each.

  from jaxcal import listing
  print(*listing.methods(), sep="\n")
"""

import ast
from collections.abc import Container, Iterator
import inspect
import pathlib
from typing import Any

from jaxcal import config as config_lib
from jaxcal import config_file
from jaxcal.adapt import methods as methods_lib
from jaxcal.adapt import numbers
from jaxcal.data import catalogue
from jaxcal.data import prepare
from jaxcal.recalibration import calibrators
from jaxcal.testbed import sets as testbed_sets
from jaxcal.tuning import methods as tuning_methods

_WIDTH = 22  # of the names


def methods() -> Iterator[str]:
  """Test-time and few-shot methods."""
  yield "Test-time methods, for --config.method.name:"
  for name, method in methods_lib.METHODS.items():
    yield _line(name, _first_line(method))
  yield ""
  yield "Few-shot methods, for --config.tune.name:"
  for name, kind in tuning_methods.METHODS.items():
    yield _line(name, kind.about)
  yield (f"and NAME+{', NAME+'.join(tuning_methods.ADDITIONS)}, for the "
         "methods that allow it")


def datasets() -> Iterator[str]:
  """Image sets of the testbed and of the benchmarks, with their sizes."""
  line = lambda name, num_classes, num_images, kind: _line(
      name, f"{num_classes:5,d} classes {num_images:7,d} test images, {kind}")
  yield "Testbed sets, for --config.data.name; they ship with jaxcal:"
  for name in testbed_sets.NAMES:
    images = testbed_sets.load(name)
    base, _, shift = name.partition("-")
    yield line(name, len(images.class_names), len(images.ids),
               f"distribution shift of {base}" if shift else
               "scanned" if base == "digits" else "drawn")
  yield ""
  yield "Benchmark sets, in the folder --config.data.root:"
  for row in catalogue.CATALOGUE.values():
    kind = ("distribution shift of ImageNet" if row.shift else
            "fine-grained" if row.augmix else "general")
    yield line(row.name, row.num_classes, row.counts["test"],
               f"{kind}: {row.title}")


def image_sets(root: pathlib.Path | None) -> Iterator[str]:
  """Image sets with splits, layout, licence and home, and where they lie.

  Args:
    root: Folder below which benchmark sets may lie; None where none is known.
  """
  yield "Ship with jaxcal:"
  for name in testbed_sets.NAMES:
    images = testbed_sets.load(name)
    yield _line(name, f"{len(images.class_names):5,d} classes "
                f"{len(images.ids):7,d} test images")
  yield ""
  yield "Benchmark sets:"
  for row in catalogue.CATALOGUE.values():
    counts = ", ".join(f"{number:,} {split}"
                       for split, number in row.counts.items())
    yield _line(row.name, f"{row.title}: {row.num_classes:,} classes; {counts}")
    yield f"    layout:  {_layout(row)}"
    yield f"    licence: {row.licence}"
    yield f"    from:    {row.home}"
    if prepare.archive_names(row.name):
      yield f"    archives: {', '.join(prepare.archive_names(row.name))}"
    if root is not None:
      found = [folder for folder in row.folders if (root / folder).is_dir()]
      yield (f"    found:   {root / found[0]}" if found else
             f"    not found below {root}")


def _layout(row: catalogue.Row) -> str:
  """How a benchmark set lies below the root."""
  where = f"{row.folders[0]}/{row.images[0]}".rstrip("/")
  return {
      "coop": f"{where}, listed in {row.split_file}",
      "aircraft": f"{where}, listed in images_variant_SPLIT.txt",
      "wnids": f"{where}/WNID, a folder for each class",
      "labels": f"{where}/LABEL, a folder for each class",
      "cifar": f"{where}, binary files, or SPLIT/CLASS with images",
  }[row.layout]


def data() -> str:
  """Names of the image sets, and what else may stand for one."""
  return (f"Image sets: {', '.join(testbed_sets.NAMES)},\n"
          "  with --config.data.root=FOLDER: "
          f"{', '.join(catalogue.CATALOGUE)},\n"
          "  a folder with one sub-folder per class, a CSV file "
          "(path,label),\n  or what others write, see docs/data.md")


def recalibrators() -> Iterator[str]:
  """What makes predictions better calibrated, by labels or without."""
  for heading, with_fit in (
      ("Fitted to labelled images, with --on or --share:", True),
      ("Without labels, by what predictions carry:", False)):
    yield heading
    for name, recalibrator in calibrators.RECALIBRATORS.items():
      if (recalibrator().recalibrator().fit is not None) == with_fit:
        yield _line(name, _first_line(recalibrator))


def configs() -> Iterator[str]:
  """Experiments that ship with jaxcal, for --config."""
  yield _line(config_file.DEFAULTS, "Every field as it is without --config.")
  for name, path in config_file.shipped().items():
    yield _line(name, _about_config(path))


def fields(names: Container[str]) -> Iterator[str]:
  """Some fields of a config with their defaults, and what they are for.

  Args:
    names: Dotted names, as in "config.data.limit"; those of numbers of single
      methods give lines on all of them.
  """
  some = [field for field in config_lib.fields(config_lib.ExperimentConfig())
          if field.name in names]
  for field in some:
    if not field.is_of_one_method:
      yield f"  --{field.name}={config_lib.plain(field.value)}"
      yield f"      {field.about}"
  if any(field.is_of_one_method for field in some):
    yield "  --config.method.METHOD.NUMBER=None"
    yield ("      a number of one method, before those that stand for all; "
           "None is its default:")
    for name in config_lib.method_parts(config_lib.MethodConfig()):
      given = numbers.values_of(methods_lib.method(name))
      yield f"      {name}: " + ", ".join(
          f"{key}={value}" for key, value in given.items())


def _about_config(path: pathlib.Path) -> str:
  """The first line of a file's docstring, without running it."""
  try:
    about = ast.get_docstring(ast.parse(path.read_bytes()))
  except SyntaxError as error:  # of a checkout's file that is being edited
    return f"Cannot be read, line {error.lineno}: {error.msg}."
  return (about or "").partition("\n")[0]


def _line(name: str, about: str) -> str:
  return f"  {name:{_WIDTH}s} {about}".rstrip()


def _first_line(thing: Any) -> str:
  """Of the docstring of a function, class, object or module."""
  return (inspect.getdoc(thing) or "").partition("\n")[0]


def kinds() -> Iterator[str]:
  """What there is to be listed."""
  for kind, lines in KINDS.items():
    yield _line(kind, _first_line(lines))


KINDS = {"methods": methods, "datasets": datasets,
         "recalibrators": recalibrators, "configs": configs}
