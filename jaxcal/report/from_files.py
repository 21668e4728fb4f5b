"""Files of anybody's predictions become what a run's report writes.

  files = foreign.by_name(["zero_shot.npz", "tpt.npz"])
  planned = from_files.plan(files, data="dtd")
  print(from_files.write(planned, "runs/theirs").text)

Each file is a method, all for the images of one set. The numbers are those of
`jaxcal.evaluate` for what the files hold. Predictions of all classes are saved
like those of a run, so that `jaxcal recalibrate` can go on from there.
"""

from collections.abc import Mapping, Sequence
import hashlib
import json
import os
import pathlib
from typing import Any, NamedTuple

from jaxcal import predictions as predictions_lib
from jaxcal import provenance
from jaxcal import stages
from jaxcal.report import foreign
from jaxcal.report import formats
from jaxcal.report import measured
from jaxcal.report import published
from jaxcal.report import saved_runs
from jaxcal.report import summary
from jaxcal.storage import atomic
from jaxcal.storage import paths


class Plan(NamedTuple):
  """What is to be reported; read, and seen to fit together.

  Attributes:
    files: Paths of the files by the name of the method.
    data: Name of the image set.
    contents: Contents of the files, in the order of the first where the images
      are the same.
    pairs: Name of what each is compared with, where it is.
    remarks: Sentences on how that was seen.
    about: All that run.json says: files by what they hold, and how they are
      measured.
    conventions: Conventions of the ECE and of intervals.
    beside_published: Whether published numbers are put beside them.
  """

  files: Mapping[str, str | os.PathLike]
  data: str
  contents: Mapping[str, foreign.Content]
  pairs: Mapping[str, str]
  remarks: list[str]
  about: dict[str, Any]
  conventions: summary.Conventions
  beside_published: bool


def plan(
    files: Mapping[str, str | os.PathLike],
    *,
    data: str = "images",
    model: str | None = None,
    kind: str = "auto",
    labels: str | os.PathLike | None = None,
    conventions: summary.Conventions = summary.Conventions(),
    beside_published: bool = False,
) -> Plan:
  """Reads files; nothing is written.

  The first file is what the others are compared with, image by image: matched
  by ids where both have them, otherwise by row where number of images and
  labels agree. Where they do not, the report says so, and nothing is compared.

  Args:
    files: Paths of the files by the name of the method, see `foreign.read`.
    data: Name of the image set, of the catalogue for published numbers.
    model: Name of the model or backbone.
    kind: Kind of numbers of all classes, see `foreign.read`.
    labels: Path of a file of labels for all of them, see `foreign.read_labels`.
    conventions: Conventions of the ECE and of intervals.
    beside_published: Whether to put published numbers of the same sets and
      methods beside them.

  Raises:
    FileNotFoundError: A file is missing.
    ValueError: Files that hold no predictions, names that are no file names, or
      published numbers without a model's name.
    ImportError: A .parquet file, and pyarrow is not installed.
  """
  for name in (data, *files):
    paths.check_name(name)
  if beside_published:
    published.check(data, model)
  about = _about(files, data, model, labels, conventions)
  told = None if labels is None else foreign.read_labels(labels)
  contents, pairs, remarks = _matched({
      name: foreign.read(path, kind=kind, labels=told)
      for name, path in files.items()})
  contents = {name: _called(name, one, data) for name, one in contents.items()}
  return Plan(files, data, contents, pairs, remarks, about, conventions,
              beside_published)


def check_output(planned: Plan, output: str | os.PathLike) -> None:
  """Refuses a folder with anything but an earlier report of these files.

  Raises:
    ValueError: It is such a folder.
  """
  output = pathlib.Path(output)
  if not (output / "run.json").exists():
    return
  of_files = lambda told: {
      name: value for name, value in told.items()
      if name == "data" or name.startswith(saved_runs.FILES)}
  if of_files(saved_runs.about(output)) != of_files(planned.about):
    raise ValueError(f"{output} holds another run; give another --output")


def write(
    planned: Plan, output: str | os.PathLike, *, with_images: bool = False
) -> measured.Written:
  """Measures, and writes report, predictions and run.json.

  Args:
    planned: Plan from `plan`.
    output: Folder to write to.
    with_images: Whether to write a line for each image, too: images-SET.csv.

  Raises:
    ValueError: See `check_output`.
  """
  output = pathlib.Path(output)
  check_output(planned, output)
  data, contents, about = planned.data, planned.contents, planned.about
  found = measured.measure([measured.Predicted(
      data, {name: one.given for name, one in contents.items()},
      planned.pairs)], planned.conventions)
  atomic.make_folder(output)
  for name, one in contents.items():
    if one.class_names is not None:
      predictions_lib.save(foreign.predictions_of(one),
                           output / "predictions" / data / name)
  atomic.write_whole(
      output / "run.json", json.dumps(about, indent=2).encode())
  remarks = [*(
      f"{name}, from {pathlib.Path(path).name}: "
      f"{'; '.join(contents[name].notes)}."
      for name, path in planned.files.items()), *planned.remarks]
  if planned.beside_published:
    remarks.append(
        "Prompt and views of these predictions are not told, and taken for "
        "those of the published numbers; so are the classes, all of the set's.")
  beside = published.compare(
      found.rows, published.setting_of(about), planned.conventions
  ) if planned.beside_published else None
  return measured.write(
      output, found, about=about, conventions=planned.conventions,
      remarks=remarks, beside=beside, with_images=with_images)


def _about(files, data, model, labels, conventions) -> dict[str, Any]:
  """What run.json says: files by what they hold, and how they are measured."""
  told = {} if labels is None else {"labels": labels}
  return {
      "data": data,
      **({} if model is None else {"config.model.name": model}),
      **{f"{saved_runs.FILES}{name}":
         f"{pathlib.Path(path).name}, SHA-256 {_digest(path)}"
         for name, path in {**files, **told}.items()},
      **{f"config.metrics.{name}": value
         for name, value in conventions._asdict().items()},
      **{f"provenance.{name}": value
         for name, value in provenance.describe().items()}}


def _digest(path):
  """Of what a file holds; whether it can be read is said by its reader."""
  formats.check_there(path)
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _matched(
    contents: Mapping[str, foreign.Content]
) -> tuple[dict[str, foreign.Content], dict[str, str], list[str]]:
  """All with ids, those of the same images in the order of the first.

  Returns:
    The contents, the first one's name by those of the same images, and
    sentences on how that was seen.
  """
  (reference, first), *others = contents.items()
  first = _with_ids(first)
  found, pairs, remarks = {reference: first}, {}, []
  for name, one in others:
    one, how = _like(contents[reference], first, one)
    if one.given.ids == first.given.ids:
      pairs[name] = reference
      remarks.append(f"{name} is compared with {reference} {how}.")
    else:
      remarks.append(f"{name} is not compared with {reference} image by image: "
                     f"{how}.")
    found[name] = one
  return found, pairs, remarks


def _like(reference, first, one):
  """A file in the order of the first if of the same images; how that is known.

  Args:
    reference: The first file as it is.
    first: The same with ids, of rows where it has none.
    one: The other file.
  """
  told, ids = reference.given.ids, one.given.ids
  if None not in (told, ids):
    more = len(set(told) ^ set(ids))
    if more:
      return one, f"{more} ids are in one of them only"
    row = {one_id: position for position, one_id in enumerate(ids)}
    one = _take(one, [row[one_id] for one_id in told])
    how = "by ids"
  else:
    sizes = [len(content.given.values) for content in (one, first)]
    if sizes[0] != sizes[1]:
      return _with_ids(one), "{:,} images and {:,}".format(*sizes)
    how = "row by row, as not both have ids"
  if None not in (one.truth, first.truth) and one.truth != first.truth:
    number = sum(a != b for a, b in zip(one.truth, first.truth))
    # Images that have other labels are others, whatever they are called.
    return _with_ids(one._replace(given=one.given._replace(ids=None))), (
        f"the labels of {number:,} of {len(one.truth):,} images differ, {how}")
  return one._replace(
      given=one.given._replace(ids=first.given.ids)), how


def _take(content, rows: Sequence[int]):
  """The images of some rows."""
  given = content.given
  return content._replace(
      given=given._replace(
          values=given.values[rows], labels=given.labels[rows],
          ids=tuple(given.ids[row] for row in rows),
          info={name: values[rows] for name, values in given.info.items()}),
      truth=content.truth and tuple(content.truth[row] for row in rows),
      saved=content.saved and predictions_lib.take(content.saved, rows))


def _with_ids(content):
  """Ids of rows where there are none.

  Files with other labels have other ids, so that predictions for images to fit
  to are not taken for those of the images to be recalibrated.
  """
  if content.given.ids is not None:
    return content
  truth = content.truth or tuple(map(str, content.given.labels.tolist()))
  digest = hashlib.sha256("\n".join(truth).encode()).hexdigest()[:8]
  return content._replace(given=content.given._replace(ids=tuple(
      f"{digest}-{row}" for row in range(1, len(truth) + 1))))


def _called(name, content, data):
  """What its settings say: method, set and kind."""
  settings = {**content.given.settings, "data": data,
              "kind": content.given.kind,
              **stages.setting(stages.named(content.given.settings, name))}
  saved = content.saved and content.saved._replace(
      ids=content.given.ids, settings=settings)
  return content._replace(
      given=content.given._replace(settings=settings), saved=saved)
