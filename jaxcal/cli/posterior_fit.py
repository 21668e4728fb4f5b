"""`jaxcal posterior fit`: image-text pairs in; factors and a posterior out."""

from collections.abc import Sequence
import dataclasses
import functools

from absl import flags
import tqdm

from jaxcal import config as config_lib
from jaxcal import config_inputs
from jaxcal import progress as bars
from jaxcal import sharding
from jaxcal.cli import experiment
from jaxcal.cli import output_files
from jaxcal.cli import shared_flags
from jaxcal.clip import checkpoint
from jaxcal.data import image_set as image_sets
from jaxcal.data import load as load_lib
from jaxcal.data import pairs as pairs_lib
from jaxcal.posterior import files
from jaxcal.posterior import fit
from jaxcal.posterior import inputs
from jaxcal.report import posterior as report
from jaxcal.report import tables

EXAMPLE = "jaxcal posterior fit --config=bayesvlm"
_ABOUT = """\
Fills --config.posterior.folder with the Kronecker factors of both sides,
their spectra, the posterior, a manifest and a figure, for `jaxcal evaluate`,
`sweep` and `posterior select`. An interrupted run goes on where it stopped."""

_PAIRS = shared_flags.define_path(
    "pairs", "testbed", "'testbed' (fresh draws from the shipped model's "
    "training scenes), tars as img2dataset writes them (a folder or a pattern "
    "such as 'laion/{00000..00059}.tar'), a CSV file (path,caption), "
    "'tfds:NAME' for captions that tensorflow-datasets prepared, or 'labels': "
    "the images of --config.data.name with their class names in the template")
_PAIRS_SPLIT = flags.DEFINE_string(
    "pairs_split", "train", "with --pairs=tfds:NAME and --pairs=labels; not "
    "that of the images to evaluate, or their labels enter the posterior")
_CAPTION = flags.DEFINE_multi_string(
    "caption", [], "template for --pairs=labels, with {} for the class name; "
    "given several times they go round; --config.data.template if absent")
_NUM_PAIRS = flags.DEFINE_integer(
    "num_pairs", None, "the first so many pairs; 8,192 of the testbed's and "
    "327,680 (as published) of others if absent")
_CANDIDATES = flags.DEFINE_integer(
    "candidates", fit.CANDIDATES, "captions that each image is compared with, "
    "and the other way round; the number of pairs at most")
_CHOOSE = flags.DEFINE_enum(
    "choose", "evidence", ("evidence", "validation"), "prior precision by the "
    "marginal likelihood, or pseudo-count and prior precision by the NLL on "
    "--config.temperature.split of --config.data.name")
_PSEUDO_COUNTS = flags.DEFINE_list(
    "pseudo_counts", [f"{count:g}" for count in fit.PSEUDO_COUNTS],
    "to choose from, with --choose=validation")
FLAGS = ("pairs", "pairs_split", "caption", "num_pairs", "candidates", "choose",
         "pseudo_counts", *(flag for flag in experiment.SHARED_FLAGS
                            if flag != "output"))
FIELDS = config_lib.field_names(
    "model", "data", "posterior.folder", "posterior.pseudo_count",
    "temperature", "batch_size", "num_threads", "memory_gb",
    without=("data.out_of_distribution", "data.classes", "data.family"))
help_text = functools.partial(
    experiment.help_text, _ABOUT, EXAMPLE, FLAGS, FIELDS)
_Config = config_lib.ExperimentConfig
_UNITS = {"files": "file", "pairs": "pair", "curvature": "block"}


def main() -> None:
  """Fits the posterior that the flags describe."""
  config = experiment.checked_config()
  config_inputs.refuse_corruption(config.data, "fitting a posterior")
  folder = experiment.posterior_to_fill(config.posterior)
  grid = _pseudo_counts()
  shared_flags.check_at_least(
      2, _CANDIDATES, why=": there must be something to tell apart")
  shared_flags.check_at_least(2, _NUM_PAIRS)
  experiment.join_processes()
  validation = _validation_sets(config)
  model = config_inputs.load_model(config.model)
  pairs = _pairs(config)
  # Late: a mistake in the flags costs no posterior.
  sharding.first_does(f"take {folder}", lambda: output_files.take(
      folder, fit.clear))
  with bars.of_stages(_UNITS) as progress:
    found, evidence = fit.fit(
        model, pairs, folder, candidates=_CANDIDATES.value,
        choose=lambda found: _choose(config, model, found, grid, validation),
        max_bytes=config_inputs.image_tower_bytes(config),
        batch_size=config.clean_batch_size, num_threads=config.num_threads,
        progress=progress,
        on_unusable=lambda image_id, reason: tqdm.tqdm.write(
            f"left out: {image_id}: {reason}"))
  if sharding.is_first():
    print(report.write_fit(folder, found, evidence))
  sharding.barrier("done")


def _pseudo_counts() -> list[float]:
  counts = shared_flags.numbers(_PSEUDO_COUNTS, float)
  if not counts or not all(0 < count < float("inf") for count in counts):
    raise ValueError(f"--pseudo_counts are {counts}, expected numbers > 0")
  return counts


def _pairs(config: _Config) -> pairs_lib.PairSet:
  """The pairs of --pairs, the first --num_pairs of them."""
  number = _NUM_PAIRS.value
  if _PAIRS.value == "labels":
    return pairs_lib.limit(
        _labelled(config), number or load_lib.PUBLISHED_PAIRS)
  with bars.reported("tars", "tar") as report:
    return load_lib.pairs(
        _PAIRS.value, num_pairs=number, root=config.data.root,
        split=_PAIRS_SPLIT.value, progress=report)


def _labelled(config: _Config) -> pairs_lib.PairSet:
  """All image sets of the config as one set of pairs."""
  config_inputs.refuse_store(config.data, "--pairs=labels")
  templates = _CAPTION.value or [config.data.template]
  return pairs_lib.join([
      pairs_lib.labelled(images, templates)
      for images in experiment.load_sets(dataclasses.replace(
          config.data, split=_PAIRS_SPLIT.value, limit=0, skip=0)).values()])


def _validation_sets(config: _Config) -> list[image_sets.ImageSet]:
  """Images by whose labels to choose, if --choose says so."""
  if _CHOOSE.value == "evidence":
    return []
  if config.temperature.split in (None, config.data.split):
    raise ValueError("--choose=validation needs labels to choose by: name a "
                     "split other than --config.data.split with "
                     "--config.temperature.split=...")
  return list(experiment.load_validation(
      config, experiment.load_sets(config.data)).values())


def _choose(
    config: _Config, model: checkpoint.Model, found: files.Fitted,
    grid: Sequence[float], validation: Sequence[image_sets.ImageSet]
) -> files.Evidence:
  """The pseudo-data count and prior precisions that --choose asks for."""
  if not validation:
    return files.maximise_evidence(
        found, config.posterior.pseudo_count or files.PSEUDO_COUNT)
  with bars.of_stages() as progress:
    tasks = [inputs.task(
        model, images, template=config.data.template,
        max_bytes=config_inputs.image_tower_bytes(config),
        batch_size=config.clean_batch_size,
        num_threads=config.num_threads,
        progress=functools.partial(progress, images.name))
             for images in validation]
  best = fit.validated(found, model, tasks, pseudo_counts=grid)
  if sharding.is_first():
    print(tables.markdown(best.rows, tables.VALIDATION), end="\n\n")
  return best.evidence
