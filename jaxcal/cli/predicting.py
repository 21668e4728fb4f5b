"""What a config says of the predictions for one image set."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import pathlib
from typing import Any

from jaxcal import config as config_lib
from jaxcal import config_inputs
from jaxcal import progress
from jaxcal import run
from jaxcal import runs
from jaxcal.adapt import base
from jaxcal.adapt.prompt import pretraining
from jaxcal.clip import checkpoint
from jaxcal.data import image_set as image_sets
from jaxcal.data import load
from jaxcal.posterior import head as heads
from jaxcal.tuning import evidence

_Config = config_lib.ExperimentConfig


def asked(
    config: _Config,
    model: checkpoint.Model,
    images: image_sets.ImageSet,
    methods: run.Methods,
    posterior: heads.Chosen | None,
    place: str,
    output: pathlib.Path,
    *,
    called: Mapping[str, str] = {},
    keep_digests: bool = True,
) -> runs.Asked:
  """What some methods are to predict for an image set.

  Args:
    config: Settings of the experiment.
    model: Model from `config_inputs.load_model`.
    images: The image set, its name that of a store if the config has one.
    methods: Numbers of the methods, by file name.
    posterior: Posterior that predicts in its forms, too; None without.
    place: Place of the set among the predictions.
    output: Folder of the run.
    called: See `runs.Asked`.
    keep_digests: Whether the output folder is to keep digests of files.
  """
  common = {
      **identity_of_images(
          config, images, output if keep_digests else None, place),
      **config_inputs.identity_of_features(config, model),
      **config_inputs.identity_of_prompts(config)}
  of_posterior = None if posterior is None else heads.identity_of_head(
      posterior, num_samples=config.posterior.num_samples,
      seed=config.posterior.seed)
  return runs.asked(
      place, output / "predictions" / place, images, methods, common=common,
      order={"stream.order": config.stream.order,
             "stream.seed": config.stream.seed},
      feature_size=model.config.projection, posterior=of_posterior,
      evidence=evidence_of(config, run.EVIDENCE), called=called)


def evidence_of(
    config: _Config, known: Sequence[str]) -> tuple[str, ...]:
  """What of the evidence that is asked for can be computed."""
  return tuple(name for name in config.evidence if name in known)


def check_evidence(config: _Config) -> None:
  """Refuses evidence that nobody computes.

  Raises:
    ValueError: Names the first of it.
  """
  known = {*run.EVIDENCE, *(evidence.NAMES if config.method.tuned else ())}
  for name in config.evidence:
    if name not in known:
      why = ("is of tuned parameters: give them with --config.method.tuned"
             if name in evidence.NAMES else "cannot be computed here; choose "
             f"from: {', '.join(sorted(known))}.")
      raise ValueError(f"--config.evidence={name} {why}")


def identity_of_images(
    config: _Config, images: image_sets.ImageSet, output: pathlib.Path | None,
    place: str
) -> dict[str, Any]:
  """The identity of a set; files that did not change are not read again.

  Args:
    config: Settings of the experiment.
    images: The image set.
    output: Folder of the run, which keeps digests; none are kept if None.
    place: Place of the set among the predictions.
  """
  name = f"{place.replace('/', ' ')}.digests.npz"
  with progress.reported(f"{place}: files", delay=3) as report:
    return load.identity_of(
        images, store=config.data.store,
        memory=None if output is None else output / "digests" / name,
        num_threads=config.num_threads, progress=report)


def predict_set(
    config: _Config,
    model: checkpoint.Model,
    of: runs.Asked,
    posterior: heads.Chosen | None,
    about: Mapping[str, Mapping[str, Any]],
    on_batch: Callable[[int, int], None],
) -> Iterator[tuple[str, pathlib.Path]]:
  """Names of the predictions and their paths, as they are saved.

  Args:
    config: Settings of the experiment.
    model: Model from `config_inputs.load_model`.
    of: Predictions from `asked`.
    posterior: Posterior that predicts in its forms, too; None without.
    about: Settings to write into each one's predictions, by method.
    on_batch: See `run.iterate`.

  Raises:
    ValueError: Predictions of something else lie there.
  """

  def compute(
      methods: run.Methods, settings: Mapping[str, Mapping[str, Any]],
      parts: pathlib.Path) -> Iterator[tuple[str, run.Predictions]]:
    head = None
    if posterior is not None:
      head = heads.head(
          posterior, model, len(of.images.class_names),
          num_samples=config.posterior.num_samples, seed=config.posterior.seed)
    return run.iterate(
        methods, _task(config, model, of),
        config_inputs.source(config, model, of.images),
        order=None if config.stream.order == "given" else run.shuffled(
            len(of.images.ids), config.stream.seed), head=head,
        evidence=evidence_of(config, run.EVIDENCE),
        linearisation=config.linearisation, max_bytes=config.max_bytes,
        batch_size=config.batch_size, parts=parts,
        identity=of.common, about=settings, on_batch=on_batch)

  return runs.predict(of, compute, about)


def _task(
    config: _Config, model: checkpoint.Model, of: runs.Asked) -> base.Task:
  """The task, its context trained to be flat if the config says so."""
  task = config_inputs.task(config, model, of.images.class_names)
  if config.method.context != "fpp":
    return task
  with progress.reported(
      f"{of.images.name}: flat context", "step") as report:
    return task._replace(context=pretraining.flat_context(
        task, config_inputs.flatness_recipe(config.fpp), of.folder / "fpp.npz",
        seed=config.fpp.seed, from_words=config.fpp.from_template,
        identity=of.common, progress=report))
