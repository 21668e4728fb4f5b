"""`jaxcal failure`: do the confidences of a run know what is wrong?"""

import functools
import pathlib

from absl import flags

from jaxcal.cli import output_files
from jaxcal.cli import shared_flags
from jaxcal.report import ranked
from jaxcal.report import saved_runs

EXAMPLES = ("jaxcal failure runs/mine", "jaxcal failure runs/mine --held_out=3")
_ABOUT = """\
RUN is the output folder of `jaxcal evaluate` or `jaxcal recalibrate`. For
each image set and method: how well each score tells right predictions from
wrong ones and, where the run has images of none of the classes, those from
the others. Writes failure.md, failure.html, failure.jsonl and failure.json
into RUN or into --output, and prints the tables. `jaxcal report RUN` then has
them, too."""

_HELD_OUT = flags.DEFINE_integer(
    "held_out", 0, "also hold out so many classes, drawn at random again and "
    "again, and detect their images among the others")
_DRAWS = flags.DEFINE_integer("draws", 100, "number of such draws")
_LOGIT_SCALE = flags.DEFINE_float(
    "logit_scale", None, "factor from cosines to logits (100 for OpenAI's "
    "CLIP), for the score MCM; if absent, that of the run's model, for "
    "predictions that say it")

_FLAGS = ("held_out", "draws", "logit_scale")
FLAGS = (*_FLAGS, "output", "compilation_cache", "debug")
FIELDS: tuple[str, ...] = ()  # the files of RUN say all that a config would
help_text = functools.partial(
    shared_flags.help_of_run, _ABOUT, EXAMPLES, _FLAGS)


def main(run: str) -> None:
  """Ranks what a folder holds, as the flags say."""
  folder = pathlib.Path(run).expanduser()
  conventions = saved_runs.conventions(saved_runs.about(folder))
  found = ranked.rank(
      folder, conventions, held_out=_HELD_OUT.value, num_draws=_DRAWS.value,
      logit_scale=_LOGIT_SCALE.value)
  output = output_files.of_run(folder)
  output_files.take(output)
  print(ranked.write(folder, found, conventions, output=output,
                     page_by=shared_flags.command_line()))
  print(f"\nWritten to {output}: failure.md, failure.html, failure.jsonl, "
        "failure.json")
