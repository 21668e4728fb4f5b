"""Which images to label, and what that brings: by strategy, seed and budget.

Every choice is kept with the predictions after tuning on it, and used again
only where it is of the same images, labels, model, posterior and numbers.
"""

from collections.abc import Iterable, Mapping, Sequence
import functools
import os
import pathlib
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxcal import memory
from jaxcal import predictions as predictions_lib
from jaxcal import spelling
from jaxcal.clip import checkpoint
from jaxcal.clip import towers
from jaxcal.data import image_set as image_sets
from jaxcal.features import pooled
from jaxcal.posterior import files
from jaxcal.posterior import finetuning
from jaxcal.posterior import head as heads
from jaxcal.posterior import inputs
from jaxcal.posterior import model as models
from jaxcal.posterior import online
from jaxcal.posterior import predictive
from jaxcal.posterior import selection
from jaxcal.storage import paths

# Predictions of the model before anything is tuned.
BEFORE = "before"

_FEATURES = "features"
_WAY_OUT = ("give another folder (--output), or remove what is there "
            "(--overwrite)")


class Study(NamedTuple):
  """Images to choose from, for whom, and what is done with the chosen ones.

  Attributes:
    model: Model from `tasks.load`.
    chosen: Posterior of the model, from `head.load`.
    factors: Kronecker factors of the posterior, from `head.factors`.
    target: Images whose predictions matter; their labels are only copied.
    pools: Images that may be labelled, with the class names of the target.
    validation: Images whose labels pick the epoch of tuning; the last epoch if
      None.
    template: Prompt, with {} for the class name.
    metric: What near means, a key of `neighbours.METRICS`.
    num_samples: Samples of weights, for BALD and EPIG.
    schedule: Numbers of the tuning.
  """

  model: checkpoint.Model
  chosen: heads.Chosen
  factors: files.Fitted
  target: image_sets.ImageSet
  pools: Sequence[image_sets.ImageSet]
  validation: image_sets.ImageSet | None = None
  template: str = inputs.TEMPLATE
  metric: str = "wasserstein"
  num_samples: int = 50
  schedule: finetuning.Schedule = finetuning.Schedule()

  @property
  def left_out(self) -> dict[str, Mapping[str, str]]:
    """Images that cannot be used: reasons by id, by the place of the set."""
    name, validation = self.target.name, self.validation
    return {name: self.target.left_out,
            **{f"{name}/pool {pool.name}": pool.left_out
               for pool in self.pools},
            f"{name}/validation":
                {} if validation is None else validation.left_out}


def cells(
    strategies: Sequence[str], budgets: Sequence[int], seeds: Sequence[int]
) -> list[finetuning.Cell]:
  """All choices, in the order in which they are made.

  Raises:
    ValueError: Unknown strategies, one twice, or budgets below one.
  """
  for name in strategies:
    if name not in selection.STRATEGIES:
      raise ValueError(f"unknown strategy {name!r}; "
                       f"{spelling.choices(name, selection.STRATEGIES)}")
  for what, values in (("strategies", strategies), ("budgets", budgets),
                       ("seeds", seeds)):
    if not len(values) or len(set(values)) < len(values):
      raise ValueError(f"{what} are {list(values)}, expected one at least and "
                       "none twice")
  if min(budgets) < 1:
    raise ValueError(
        f"budgets are {list(budgets)}, expected numbers of at least 1")
  return [finetuning.Cell(strategy, seed, budget) for strategy in strategies
          for seed in seeds for budget in budgets]


def name_of(cell: finetuning.Cell) -> str:
  """The name of the predictions after tuning on a choice."""
  return f"{cell.strategy}-{cell.budget}-{cell.seed}"


def select(
    study: Study,
    folder: str | os.PathLike,
    *,
    strategies: Sequence[str],
    budgets: Sequence[int],
    seeds: Sequence[int] = (0, 1, 2),
    about: Mapping[str, Any] | None = None,
    max_bytes: int = memory.GIGABYTE,
    batch_size: int = pooled.BATCH_SIZE,
    num_threads: int = 4,
    progress: inputs.Progress | None = None,
) -> dict[str, pathlib.Path]:
  """Chooses, tunes and predicts for every strategy, seed and budget.

  By one process. Strategies, budgets and seeds may be added by a later call;
  an interrupted one goes on where it stopped.

  Args:
    study: The images, the model and the numbers.
    folder: Folder that receives predictions by name, whose settings have the
      `selected` ids in the order of choosing and the `epoch` that was kept; and
      features.
    strategies: Keys of `selection.STRATEGIES`.
    budgets: Numbers of labels.
    seeds: Seeds of choosing and of the order in tuning.
    about: Settings to write into the predictions.
    max_bytes: Budget of the image tower's activations, on each device.
    batch_size: Images per device.
    num_threads: Threads that read images.
    progress: Function called with a stage ("target", "pool-NAME", "validation",
      each after "...: files", and "choices"), and the numbers of its units done
      and in all.

  Returns:
    Where the predictions are by name: `BEFORE`, and `name_of` each choice.

  Raises:
    ValueError: Predictions or features of something else lie in the folder,
      which is named; a budget beyond the pool; or see `selection.select`.
  """
  folder = pathlib.Path(folder)
  report = progress or (lambda stage, done, total: None)
  wanted = cells(strategies, budgets, seeds)
  asked, done = look(study, folder, wanted, num_threads=num_threads,
                     progress=progress)
  found = {name: folder / name for name in asked}
  if len(done) == len(asked):
    return found
  problem, validation = _problem(
      study, folder / _FEATURES, report, max_bytes=max_bytes,
      batch_size=batch_size, num_threads=num_threads)

  def save(name, cosines, **more):
    _save(found[name], study.target, cosines, {
        **(about or {}), "data": study.target.name, "method": name,
        "identity": asked[name], **more})

  save(BEFORE, models.cosines(problem.model, problem.targets))
  ids = [image_id for pool in study.pools for image_id in pool.ids]
  known = [cell for cell in wanted if name_of(cell) in done]
  report("choices", len(known), len(wanted))
  for number, (cell, point) in enumerate(finetuning.learning_curve(
      problem, problem.targets, validation, strategies=strategies,
      budgets=budgets, seeds=seeds, done=known,
      schedule=study.schedule), start=len(known) + 1):
    save(name_of(cell), point.cosines, epoch=int(point.tuned.epoch),
         selected=[ids[row] for row in point.rows])
    report("choices", number, len(wanted))
  return found


def selected(
    found: Mapping[str, str | os.PathLike],
    *,
    strategies: Sequence[str],
    budget: int,
    seeds: Sequence[int],
) -> dict[str, list[list[str]]]:
  """Ids of the images to label, in the order of choosing, by strategy and seed.

  Args:
    found: Paths of the predictions by name, from `select`.
    strategies: Strategies, as given there.
    budget: Number of labels; smaller ones are the beginnings.
    seeds: Seeds of choosing.
  """
  return {
      strategy: [predictions_lib.settings(found[name_of(
          finetuning.Cell(strategy, seed, budget))])["selected"]
                 for seed in seeds] for strategy in strategies}


def look(
    study: Study,
    folder: pathlib.Path,
    wanted: Iterable[finetuning.Cell],
    *,
    num_threads: int = 4,
    progress: inputs.Progress | None = None,
) -> tuple[dict[str, dict[str, Any]], set[str]]:
  """What is asked for, and which of it lies there already.

  Args:
    study: See `select`.
    folder: Folder as in `select`.
    wanted: Cells that are wanted, from `cells`.
    num_threads: Threads that read files.
    progress: Function called with a stage ("SET: files", with the sets of
      `select`), and the numbers of files that were looked at and in all.

  Returns:
    The identity of all predictions by name, and the names of those that are
    there.

  Raises:
    ValueError: A budget is beyond the pool, or predictions of something else
      lie in the folder.
  """
  wanted = list(wanted)
  _check_pool(study, max(cell.budget for cell in wanted))
  asked = _identities(
      study, folder, wanted, num_threads,
      progress or (lambda stage, done, total: None))
  return asked, {name for name, one in asked.items()
                 if predictions_lib.is_there(
                     folder / name, one, way_out=_WAY_OUT)}


def _check_pool(study, budget):
  """Refuses a pool that is too small, or whose labels mean something else."""
  others = [study.validation] if study.validation is not None else []
  names = [pool.name for pool in study.pools]
  for name in names:
    paths.check_name(name)  # of folders
  if not names or len(set(names)) < len(names):
    raise ValueError(f"pools are called {names}, expected one at least and no "
                     "name twice")
  available = sum(len(pool.ids) for pool in study.pools)
  if budget > available:
    raise ValueError(f"budgets reach {budget}, but the pool of "
                     f"{study.target.name} has {available} images")
  for one in (*study.pools, *others):
    if one.class_names != study.target.class_names:
      raise ValueError(f"{one.name} has other classes than "
                       f"{study.target.name}; both must have the same")


def _identities(study, folder, wanted, num_threads, report):
  """The identity of each prediction, by name."""
  places = _places(study)
  of_sets = {
      f"{place}.{key.removeprefix('data.')}": value
      for place, images in places.items()
      for key, value in pooled.identity_of_images(
          images, folder / _FEATURES / place, num_threads=num_threads,
          progress=functools.partial(report, f"{place}: files")).items()}
  common = {
      **pooled.identity_of_towers(study.model),
      "prompt.template": study.template, **of_sets,
      **heads.identity_of(study.chosen)}
  tuned = {
      "pools": [pool.name for pool in study.pools],
      "posterior.factors": files.digest(study.factors),
      "posterior.prior_precision": study.chosen.about["prior_precision"],
      "metric": study.metric, "num_samples": study.num_samples,
      **{f"tuning.{name}": value
         for name, value in study.schedule._asdict().items()}}
  before = {key: value for key, value in common.items()
            if key.partition(".")[0] in _BEFORE_DEPENDS_ON}
  return {BEFORE: before, **{
      name_of(cell): {**common, **tuned, **cell._asdict()} for cell in wanted}}


# Pools and validation images come into play later.
_BEFORE_DEPENDS_ON = ("computation", "model", "prompt", "target", "posterior")


def _places(study):
  """Image sets by the folder of their features."""
  found = {"target": study.target}
  found |= {f"pool-{pool.name}": pool for pool in study.pools}
  if study.validation is not None:
    found["validation"] = study.validation
  return found


def _problem(study, folder, report, *, max_bytes, batch_size, num_threads):
  """Pool, targets and model; and the validation images, if any."""
  tasks = {
      place: inputs.task(
          study.model, images, folder / place, template=study.template,
          max_bytes=max_bytes, batch_size=batch_size, num_threads=num_threads,
          progress=functools.partial(report, place))
      for place, images in _places(study).items()}
  target, apart = tasks.pop("target"), tasks.pop("validation", None)
  validation = None if apart is None else models.Labelled(
      apart.images, jnp.asarray(apart.labels))
  pools = list(tasks.values())
  joined = pools[0].images
  for task in pools[1:]:
    joined = models.join(joined, task.images)
  learner = online.Learner(
      study.factors.factors["image"], study.chosen.about["pseudo_count"],
      study.chosen.about["prior_precision"]["image"])
  return selection.Problem(
      _from_projections(study, target.texts), joined, target.images,
      labels=np.concatenate([task.labels for task in pools]),
      learner=learner, metric=study.metric,
      num_samples=study.num_samples), validation


def _from_projections(study, texts):
  """The model from its last projections on."""
  maps, params = inputs.projections(study.model), study.model.params
  texts = jnp.asarray(texts)
  return models.Model(
      weights=models.with_bias(*maps["image"]), text_activations=texts,
      text_embeddings=towers.project(texts, maps["text"]),
      posterior=study.chosen.posterior,
      logit_scale=jnp.exp(params["logit_scale"]),
      logit_bias=params.get("logit_bias"))


def _save(path, images, cosines, settings):
  logits = predictive.probit_logits(cosines)
  predictions_lib.save(predictions_lib.Predictions(
      np.asarray(logits, np.float32), images.labels, images.ids,
      images.class_names, {}, settings), path)
