"""What a config says of the predictions for one image set."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import functools
import pathlib
from typing import Any

from jaxcal import config as config_lib
from jaxcal import progress
from jaxcal import run
from jaxcal import runs
from jaxcal import tasks
from jaxcal.adapt import base
from jaxcal.adapt.prompt import flatness
from jaxcal.adapt.prompt import pretraining
from jaxcal.cli import experiment
from jaxcal.cli import identities
from jaxcal.clip import checkpoint
from jaxcal.data import image_set as image_sets
from jaxcal.data import load
from jaxcal.features import sources
from jaxcal.features import store as stores
from jaxcal.posterior import head as heads
from jaxcal.tuning import checkpoint as tuned_files
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
    model: Model from `experiment.load_model`.
    images: The image set, its name that of a store if the config has one.
    methods: Numbers of the methods, by file name.
    posterior: Posterior that predicts in its forms, too; None without.
    place: Place of the set among the predictions.
    output: Folder of the run.
    called: See `runs.Asked`.
    keep_digests: Whether the output folder is to keep digests of files.
  """
  common = {
      **identities.of_images(
          config, images, output if keep_digests else None, place),
      **identities.of_features(config, model), **identities.of_prompts(config)}
  return runs.asked(
      place, output / "predictions" / place, images, methods, common=common,
      order=identities.of_order(config),
      feature_size=model.config.projection,
      posterior=identities.of_posterior(config, posterior),
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
    model: Model from `experiment.load_model`.
    of: Predictions from `asked`.
    posterior: Posterior that predicts in its forms, too; None without.
    about: Settings to write into each one's predictions, by method.
    on_batch: See `run.iterate`.

  Raises:
    ValueError: Predictions of something else lie there.
  """
  budget = config.max_bytes

  def compute(
      methods: run.Methods, settings: Mapping[str, Mapping[str, Any]],
      parts: pathlib.Path) -> Iterator[tuple[str, run.Predictions]]:
    head = None
    if posterior is not None:
      head = heads.head(
          posterior, model, len(of.images.class_names),
          num_samples=config.posterior.num_samples, seed=config.posterior.seed)
    return run.iterate(
        methods, _task(config, model, of, budget),
        _source(config, model, of.images, budget),
        order=None if config.stream.order == "given" else run.shuffled(
            len(of.images.ids), config.stream.seed), head=head,
        evidence=evidence_of(config, run.EVIDENCE),
        linearisation=config.linearisation,
        max_bytes=budget, batch_size=config.batch_size, parts=parts,
        identity=of.common, about=settings, on_batch=on_batch)

  return runs.predict(of, compute, about)


def start(
    config: _Config, model: checkpoint.Model) -> tuned_files.Tuned | None:
  """The context that config.method.context names by path; None without one.

  Raises:
    FileNotFoundError: Nothing lies there.
    ValueError: See `tuning.checkpoint.context`.
  """
  if not experiment.is_tuned(config.method.context):
    return None
  try:
    return tuned_files.context(pathlib.Path(config.method.context), model)
  except ValueError as error:
    raise ValueError(f"--config.method.context: {error}") from error


def _source(
    config: _Config, model: checkpoint.Model, images: image_sets.ImageSet,
    budget: int
) -> sources.Source:
  """The images' features: stored, or to be computed."""
  if config.data.store is not None:
    return sources.from_store(
        _checked_store(config, model, images), image_set=images,
        config=model.config, max_bytes=budget)
  return sources.from_images(
      model, images, recipe=experiment.recipe(config.views, model),
      seed=config.views.seed, num_threads=config.num_threads)


def _task(
    config: _Config, model: checkpoint.Model, of: runs.Asked, budget: int
) -> base.Task:
  """The prompts of the classes, and the context where every image starts."""
  task_of = functools.partial(
      tasks.unencoded_task, model, of.images.class_names, max_bytes=budget,
      num_contexts=config.batch_size)
  tuned = start(config, model)
  if tuned is not None:
    # As in its training, no words but the name and a full stop.
    context = tuned.params["context"]
    return task_of(template="{}.", num_context_tokens=len(context),
                   class_position=tuned.spec.class_position)._replace(
                       context=context)
  task = task_of(template=config.data.template)
  if config.method.context != "fpp":
    return task
  fpp = config.fpp
  with progress.reported(
      f"{of.images.name}: flat context", "step") as report:
    return task._replace(context=pretraining.flat_context(
        task, flatness.Recipe(
            learning_rate=fpp.learning_rate, num_steps=fpp.num_steps,
            flatness_weight=fpp.flatness_weight),
        of.folder / "fpp.npz", seed=fpp.seed, from_words=fpp.from_template,
        identity=of.common, progress=report))


def _checked_store(
    config: _Config, model: checkpoint.Model, images: image_sets.ImageSet
) -> stores.Store:
  """The store of these images, if it holds what the config asks for."""
  store = load.open_store(config.data.store or "", images.name)
  wanted = stores.manifest_of(
      model, stores.image_set(store),
      recipe=experiment.recipe(config.views, model), seed=config.views.seed,
      dtype=store.manifest.dtype, chunk_size=store.manifest.chunk_size,
      contents=store.manifest.contents_fingerprint)
  stores.check(store.manifest, wanted, name=str(store.folder))
  return store
