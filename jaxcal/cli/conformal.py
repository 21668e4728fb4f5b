"""`jaxcal conformal`: predictions on disk become sets, on random splits."""

import functools
import pathlib

from absl import flags

from jaxcal.cli import output_files
from jaxcal.cli import printing
from jaxcal.cli import shared_flags
from jaxcal.conformal import predicted
from jaxcal.conformal import scores
from jaxcal.report import prediction_sets

EXAMPLES = ("jaxcal conformal runs/mine --alpha=0.1 --splits=50",
            "jaxcal conformal runs/mine --score=lac --by_class")
_ABOUT = """\
RUN is the output folder of `jaxcal evaluate` or `jaxcal recalibrate`. For
every METHOD of each image set, a random half of the images, or --share,
calibrates, and the others get sets of classes that contain the true one with
probability 1 - alpha, again and again. Writes sets.md, sets.html, sets-*.svg,
sets.jsonl and sets.json, and prints tables of coverage and sizes beside
accuracy and calibration errors. `jaxcal report RUN` then has them, too."""

_ALPHA = flags.DEFINE_float(
    "alpha", 0.1, "share of images whose class the sets may miss, in (0, 1)")
_SPLITS = flags.DEFINE_integer("splits", 50, "number of random splits")
_SCORE = flags.DEFINE_list(
    "score", list(scores.SCORES),
    f"which scores: {', '.join(scores.SCORES)}")
_FULL = flags.DEFINE_list(
    "full", [], f"which full conformal methods: {', '.join(predicted.FULL)}; "
    "for zero-shot predictions with "
    "--config.evidence=image_features,zero_shot_text_features")
_BY_CLASS = flags.DEFINE_bool(
    "by_class", False, "cover every class by itself, with a threshold of its "
    "own")
_TRANSPORT = flags.DEFINE_bool(
    "transport", False, "first transport the probabilities of all images to "
    "equal shares of the classes (Conf-OT)")

# What calibrates where --share is not given.
_SHARE = 0.5

_FLAGS = ("alpha", "splits", "score", "full", "by_class", "transport", "share",
          "seed")
FLAGS = (*_FLAGS, "output", "compilation_cache", "debug")
FIELDS: tuple[str, ...] = ()  # the files of RUN say all that a config would
help_text = functools.partial(
    shared_flags.help_of_run, _ABOUT, EXAMPLES, _FLAGS)


def main(run: str) -> None:
  """Measures prediction sets of what a folder holds, as the flags say."""
  folder, share = pathlib.Path(run).expanduser(), shared_flags.share()
  plan = prediction_sets.plan(
      folder, _SCORE.value, full=_FULL.value, alpha=_ALPHA.value,
      num_splits=_SPLITS.value, share=_SHARE if share is None else share,
      seed=shared_flags.SEED.value, by_class=_BY_CLASS.value,
      transported=_TRANSPORT.value)
  output = output_files.of_run(folder)
  output_files.take(output)
  printing.show(*prediction_sets.write(
      plan, output, page_by=shared_flags.command_line()))
