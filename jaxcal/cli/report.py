"""`jaxcal report`: predictions on disk become tables and a page."""

from collections.abc import Sequence
import pathlib
from typing import Any

from absl import flags

from jaxcal import config as config_lib
from jaxcal.cli import config_files
from jaxcal.cli import output_files
from jaxcal.cli import printing
from jaxcal.cli import shared_flags
from jaxcal.report import foreign
from jaxcal.report import from_files
from jaxcal.report import inputs
from jaxcal.report import joined_runs
from jaxcal.report import measured
from jaxcal.report import redrawn
from jaxcal.report import saved_runs
from jaxcal.report import summary

EXAMPLES = ("jaxcal report runs/mine --config.metrics.num_bins=15",
            "jaxcal report runs/one runs/other --output=runs/both",
            "jaxcal report zero_shot.npz tpt.npz --output=runs/theirs")
_ABOUT = """\
RUN is the output folder of `jaxcal evaluate`, `recalibrate`, `sweep`, `tune`
or `posterior select`. Writes its tables, figures and report.html anew, into
RUN or into --output, and prints a table. What the predictions are and how the
run measured them stays in run.json; the page says how it is done now, and has
what `jaxcal conformal` and `jaxcal failure` have written there.

RUN..., several of `jaxcal evaluate` or `recalibrate`, become one report in
--output, with the methods of all.

FILE or NAME=FILE, once or several times, is what a method predicts for the
same images, .npz, .npy, .csv or .parquet: logits or probabilities of all
classes and labels, or labels, predicted classes and confidences
(docs/arrays.md). The same is written to --output, with predictions/ for
`jaxcal recalibrate`."""

_AGAINST = flags.DEFINE_enum(
    "against", None, ("published",), "published: put numbers that others have "
    "published of the same sets and methods beside these, with a verdict each")
_PER_IMAGE = flags.DEFINE_bool(
    "per_image", False, "also write images-SET.csv, a line for each method and "
    "image: id, label, prediction, confidence")
_DATA = flags.DEFINE_string("data", "images", "of files: name of the image set")
_MODEL = flags.DEFINE_string(
    "model", None, "of files: name of the model, such as ViT-B/16")
_KIND = flags.DEFINE_enum(
    "kind", "auto", inputs.KINDS, "of files: what their numbers are; if auto, "
    "what they are called, or probabilities where all rows sum to one")
_LABELS = shared_flags.define_path(
    "labels", None, "of files: another file with the labels of all of them")

_OF_FILES = ("data", "model", "kind", "labels")
_OWN = ("against", "per_image", *_OF_FILES)
FLAGS = (*_OWN, "output", "compilation_cache", "debug")
FIELDS = config_lib.field_names("metrics")


def help_text() -> str:
  """What `jaxcal report --help` prints."""
  fields = config_lib.describe(config_lib.MetricsConfig(), "config.metrics")
  return "\n".join([
      _ABOUT, "Examples:", *(f"  {example}" for example in EXAMPLES), "",
      "Flags:", "  --output\n      folder to write to; RUN itself if absent",
      *shared_flags.flag_help(*_OWN, "compilation_cache", "debug"), "",
      "Fields of the config; what is not given is as in the run:",
      *(f"  --{name}\n      {about}" for name, _, about in fields)])


def main(*paths: str) -> None:
  """Measures what folders or files hold, as the flags say."""
  if foreign.are_files(paths):
    printing.show(*_files(paths))
    return
  runs = [pathlib.Path(path).expanduser() for path in paths]
  given = [name for name in _OF_FILES if flags.FLAGS[name].present]
  if given:
    raise ValueError(f"--{given[0]} is of files, but {runs[0]} is none; a run "
                     "says in its run.json what it is of")
  conventions = joined_runs.conventions(runs, _given())
  _check(conventions)
  arguments: dict[str, Any] = dict(
      beside_published=_AGAINST.value is not None,
      with_images=_PER_IMAGE.value, page_by=shared_flags.command_line())
  output = (output_files.of_run(runs[0]) if len(runs) == 1 else
            pathlib.Path(_output("several runs")))
  if output.is_dir():
    # Another command may write there. A folder that is not there is left to
    # errors that come first.
    output_files.take(output)
  printing.show(*(
      redrawn.write(runs[0], conventions, output, **arguments)
      if len(runs) == 1 else
      joined_runs.write(runs, output, conventions, **arguments)))


def _files(paths: Sequence[str]) -> measured.Written:
  """Measures files of other programs."""
  output = pathlib.Path(_output("files"))
  conventions = saved_runs.conventions({}, _given())
  _check(conventions)
  planned = from_files.plan(
      foreign.by_name(paths), data=_DATA.value, model=_MODEL.value,
      kind=_KIND.value, labels=_LABELS.value, conventions=conventions,
      beside_published=_AGAINST.value is not None)
  from_files.check_output(planned, output)
  output_files.take(output)
  return from_files.write(planned, output, with_images=_PER_IMAGE.value)


def _output(of: str) -> str:
  """Where a report goes that has no run's folder of its own."""
  if shared_flags.OUTPUT.value is None:
    raise ValueError(f"give --output=FOLDER, where the report of {of} goes")
  return shared_flags.OUTPUT.value


def _given() -> dict[str, Any]:
  """Conventions on the command line, those that are the defaults, too."""
  return {name.removeprefix("metrics."): value
          for name, value in config_files.overrides().items()}


def _check(conventions: summary.Conventions) -> None:
  """Refuses values out of range, by the name of the field."""
  config = config_lib.ExperimentConfig()
  config.metrics = config_lib.MetricsConfig(**conventions._asdict())
  config_lib.validate(config)
