"""The predictions of one image set: what is missing is computed and saved."""

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
import functools
import hashlib
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal import parts as parts_lib
from jaxcal import predictions as predictions_lib
from jaxcal import run
from jaxcal import sharding
from jaxcal import tasks
from jaxcal.adapt import base
from jaxcal.adapt.prompt import flatness
from jaxcal.cli import dry_run
from jaxcal.cli import experiment
from jaxcal.cli import identities
from jaxcal.cli import posteriors
from jaxcal.cli import progress
from jaxcal.cli import tuned_predictions
from jaxcal.data import image_set as image_sets
from jaxcal.data import load
from jaxcal.features import sources
from jaxcal.features import store as stores
from jaxcal.posterior import head as heads
from jaxcal.storage import paths
from jaxcal.storage import pytree

_FPP_PART = 50  # steps between two saves
_PARTS = "parts-"  # what folders of unfinished work begin with


def predict_set(
    config,
    model,
    images: image_sets.ImageSet,
    methods: Mapping[str, base.Numbers],
    about: Mapping[str, Mapping[str, Any]],
    identity: identities.OfSet,
    folder: pathlib.Path,
    *,
    posterior: posteriors.Chosen | None = None,
    on_batch: Callable[[int, int], None],
) -> Iterator[tuple[str, pathlib.Path]]:
  """Names of the predictions and their paths, as they are saved.

  What is there already, and of the same, is not computed again. Several
  processes share the images; the first one saves, and only there is anything
  yielded.

  Args:
    config: Fields of the experiment.
    model: Model from `experiment.load_model`.
    images: The image set, its name that of a store if the config has one.
    methods: Numbers of the methods, by file name.
    about: Settings to write into each one's predictions, by method.
    identity: Identities of the set's predictions.
    folder: Folder of the set's predictions.
    posterior: Posterior that predicts in its forms, too; see
      `run.output_names`.
    on_batch: See `run.iterate`.

  Raises:
    ValueError: Predictions of something else lie there.
  """
  path_of = lambda name: paths.inside(folder, name)
  method_of = run.output_names(
      methods, with_posterior=posterior is not None)
  missing = identities.missing(folder, identity, config.evidence)
  sharding.barrier("looked for predictions")
  found: dict[str, Any] = {}  # by name, the iterator over its group
  for parts, names in groups(folder, missing, identity).items():
    together = dict.fromkeys(method_of[name] for name in names)
    group = _predictions(
        config, model, images, {name: methods[name] for name in together},
        {name: {**about[method_of[name]], "method": name,
                "identity": dict(identity.by_name[name]),
                "evidence": list(config.evidence)}
         for name in missing if name in names and experiment.is_first()},
        parts, identity, folder, posterior, on_batch)
    found |= dict.fromkeys(names, group)
  if not experiment.is_first():
    for group in dict.fromkeys(found.values()):
      collections.deque(group, maxlen=0)  # runs, and yields nothing
    return
  for name in method_of:
    if name in missing:
      _, one = next(found[name])
      predictions_lib.save(one, path_of(name))
    yield name, path_of(name)
  for parts in folder.glob(f"{_PARTS}*"):
    parts_lib.remove(parts)


def planned(
    config,
    place: str,
    images: image_sets.ImageSet,
    methods: Mapping[str, base.Numbers],
    identity: identities.OfSet,
    folder: pathlib.Path,
    *,
    posterior: posteriors.Chosen | None = None,
) -> dry_run.Planned:
  """What `predict_set` would compute; arguments as there.

  Args:
    config: Fields of the experiment.
    place: Place of the set among the predictions.
    images: The image set.
    methods: Numbers of the methods, by file name.
    identity: Identities of the set's predictions.
    folder: Folder of the set's predictions.
    posterior: Posterior that predicts in its forms, too.
  """
  method_of = run.output_names(
      methods, with_posterior=posterior is not None)
  missing = identities.missing(folder, identity, config.evidence)
  return dry_run.Planned(
      place, len(images.ids), len(images.class_names),
      0 if config.data.store is not None else config.views.number,
      {name: methods[method] for name, method in method_of.items()}, missing,
      groups(folder, missing, identity))


def groups(
    folder: pathlib.Path, missing: Sequence[str], identity: identities.OfSet
) -> dict[pathlib.Path, Sequence[str]]:
  """Names to be computed together, by the folder of their parts.

  Those that an interrupted run had begun together are finished together.

  Args:
    folder: Folder of the predictions of a set.
    missing: Names of those that are not there.
    identity: Identities of the set's predictions.
  """
  prefix = f"{_PARTS}{identity.of_pass[:8]}-"
  found: dict[pathlib.Path, Sequence[str]] = {}
  left = list(missing)
  for parts in sorted(folder.glob(f"{prefix}*")):
    names = parts_lib.names(parts)
    if names and set(names) <= set(left):
      found[parts] = names
      left = [name for name in left if name not in names]
  if left:
    digest = hashlib.sha256("\n".join(left).encode()).hexdigest()[:8]
    found[folder / f"{prefix}{digest}"] = tuple(left)
  return found


def _predictions(config, model, images, methods, about, parts, identity,
                 folder, posterior, on_batch):
  budget = experiment.max_bytes(config)
  head = None
  if posterior is not None:
    head = heads.head(
        posterior, model, len(images.class_names),
        num_samples=config.posterior.num_samples, seed=config.posterior.seed)
  return run.iterate(
      methods, _task(config, model, images, identity, folder, budget),
      _source(config, model, images, budget),
      order=_order(config.stream, len(images.ids)), head=head,
      evidence=config.evidence, linearisation=config.linearisation,
      max_bytes=budget, batch_size=config.batch_size, parts=parts,
      identity=identity.common, about=about,
      on_batch=on_batch)


def _source(config, model, images, budget):
  """The images' features: stored, or to be computed."""
  if config.data.store is not None:
    return sources.from_store(
        _checked_store(config, model, images), image_set=images,
        config=model.config, max_bytes=budget)
  return sources.from_images(
      model, images, recipe=experiment.recipe(config.views, model),
      seed=config.views.seed, num_threads=config.num_threads)


def _order(config, num_images):
  """Positions of the images as methods with a state see them."""
  if config.order == "given":
    return None
  return np.random.default_rng(config.seed).permutation(num_images)


def _task(config, model, images, identity, folder, budget):
  """The prompts of the classes, and the context where every image starts."""
  task_of = functools.partial(
      tasks.unencoded_task, model, images.class_names, max_bytes=budget,
      num_contexts=config.batch_size)
  start = tuned_predictions.start(config.method, model)
  if start is not None:
    # As in its training, no words but the name and a full stop.
    context = jnp.asarray(start.params["context"])
    return task_of(template="{}.", num_context_tokens=len(context),
                   class_position=start.spec.class_position)._replace(
                       context=context)
  task = task_of(template=config.data.template)
  if config.method.context == "fpp":
    task = task._replace(context=_flat_context(
        config.fpp, task, folder / "fpp.npz", images.name, identity.common))
  return task


def _checked_store(config, model, images):
  """The store of these images, if it holds what the config asks for."""
  store = load.open_store(config.data.store, images.name)
  asked = experiment.manifest(
      config, model, stores.image_set(store), store.manifest.dtype,
      store.manifest.chunk_size, store.manifest.contents_fingerprint)
  stores.check(store.manifest, asked, name=str(store.folder))
  return store


def _flat_context(config, task, path, name, identity):
  """A context pre-trained by FPP; goes on from what `path` holds."""
  recipe = flatness.Recipe(
      learning_rate=config.learning_rate, num_steps=config.num_steps,
      flatness_weight=config.flatness_weight)
  noise_key, start_key = jax.random.split(jax.random.key(config.seed))
  start = task.context if config.from_template else flatness.random_context(
      start_key, task.context.shape)
  state = pytree.load(path, flatness.begin(start, recipe), identity)
  target = jax.jit(lambda encode, context: encode(context))(
      task.encode, task.context)
  advance = jax.jit(flatness.advance, static_argnames="num_steps")
  with progress.bar(
      f"{name}: flat context", config.num_steps, "step") as bar:
    bar.update(int(state.step))
    while state.step < config.num_steps:
      steps = min(_FPP_PART, config.num_steps - int(state.step))
      state, _ = advance(task.encode, target, noise_key, state, recipe,
                         num_steps=steps)
      pytree.save(path, state, identity)
      bar.update(steps)
  return state.context
