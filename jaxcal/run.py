"""From images, stored features or arrays to Predictions: `predict`.

The views of an image go through the image tower once; all methods then see the
same features. Methods that tune prompts share what `adapt.prompt.family` can
share; those without state run on all devices, each on its own images; those
with a state see the images one after the other, in one pass with the rest.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import functools
import itertools
import pathlib
import tempfile
import time
from typing import Any

from absl import logging
import jax
import numpy as np

from jaxcal import memory
from jaxcal import outputs as outputs_lib
from jaxcal import parts as parts_lib
from jaxcal import predictions as predictions_lib
from jaxcal import sharding
from jaxcal import stages
from jaxcal import streams
from jaxcal import tasks
from jaxcal.adapt import base
from jaxcal.adapt import contract
from jaxcal.adapt import orders as orders_lib
from jaxcal.adapt import run as runners
from jaxcal.adapt.prompt import bayesian
from jaxcal.adapt.prompt import family as families
from jaxcal.adapt.prompt import methods as prompt_methods
from jaxcal.clip import checkpoint
from jaxcal.data import image_set as image_sets
from jaxcal.features import extract
from jaxcal.features import sources
from jaxcal.features import store as stores
from jaxcal.storage import pytree
from jaxcal.typing import as_numpy
from jaxcal.typing import Positions

Predictions = predictions_lib.Predictions
Methods = Mapping[str, base.Numbers]

# Evidence that all methods share, and that which each has for itself.
COMMON_EVIDENCE = ("image_features", "zero_shot_text_features",
                   "zero_shot_logits", "mean_cosine")
VIEW_EVIDENCE = ("view_logits", "zero_shot_view_logits")
EVIDENCE = COMMON_EVIDENCE + VIEW_EVIDENCE

_STREAMS = "streams.npz"
_SAVE_SECONDS = 30  # between two saves of what streams remember


def predict(
    methods: Methods,
    task: base.Task,
    source: Any,
    *,
    labels: Any = None,
    ids: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    model: checkpoint.Model | None = None,
    num_views: int = 64,
    seed: int = 0,
    order: Positions | Mapping[int, Positions] | None = None,
    head: bayesian.Head | None = None,
    evidence: Sequence[str] = (),
    batch_size: int | None = None,
    devices: Sequence[jax.Device] | None = None,
    on_batch: Callable[[int, int], None] | None = None,
) -> dict[str, Predictions]:
  """What every method predicts for every image.

  Args:
    methods: Dataclasses of numbers by name, from `adapt.methods.METHODS` or of
      one's own; each has a `method()`.
    task: Task from `task_of`, or `Task(text_features, logit_scale)` of arrays,
      with which methods that tune prompts cannot run.
    source: Unit-norm image features, [n d] or of views [n v d] with the clean
      view first, as arrays of numpy, jax or torch or as lists; or an open
      feature store; or an `ImageSet`, together with `model`.
    labels: True classes [n], which are only copied to the result; None for
      those that the source has, if any.
    ids: Ids, one per image, for features in arrays; "0", "1", ... if None.
    class_names: Names in label order; those of the source, or "0", "1", ...
    model: Model from `load`; reads images. With a head, a store needs it, too.
    num_views: Views that are cut from each image, the clean one included.
    seed: Seed of the random views.
    order: Positions of the images as methods with a state see them, such as a
      random permutation; as they come if None. Several orders by their seeds,
      such as `orders.orders("shuffled", labels, range(5))` gives them: of these
      methods there are then METHOD-order0, METHOD-order1, ...
    head: Posterior from `posterior.head.head`, which predicts in its forms,
      too: METHOD+diagonal, METHOD+full, METHOD+tangent.
    evidence: Names of `predictions.EVIDENCE` to add, for recalibrators.
    batch_size: Images per device and step; 8 where prompts are tuned and 256
      elsewhere if None. No influence beyond rounding.
    devices: Devices that share the images; all if None.
    on_batch: Function called with (images done, images in all) after each
      batch.

  Returns:
    Predictions by name, in the order of the source.

  Raises:
    ValueError: Shapes that do not fit together, features that are not of unit
      norm or not finite, a method that needs more than is there (an encoder,
      more views) or breaks its contract (see `adapt.contract`), evidence that
      is not known or that no method gives.
    TypeError: Something that is no source, no task or no method.
  """
  task = tasks.checked(task)
  with tempfile.TemporaryDirectory() as scratch:
    images = _as_source(
        source, task, labels=labels, ids=ids, class_names=class_names,
        model=model, num_views=num_views, seed=seed,
        store=(pathlib.Path(scratch, "store") if isinstance(order, Mapping)
               else None))
    options: dict[str, Any] = dict(
        head=head, evidence=evidence, batch_size=batch_size, devices=devices,
        on_batch=on_batch)
    if isinstance(order, Mapping):
      return _along_orders(methods, task, images, order, **options)
    return dict(iterate(methods, task, images, order=order, **options))


def _along_orders(methods, task, source, orders, *, head, evidence, batch_size,
                  devices, on_batch):
  """Predictions of methods with a state along each order, of others once."""
  along = _streams(methods, check(methods, task, source))
  _check_evidence(evidence, methods, task)
  check_head(head, methods, task)
  for order in orders.values():
    orders_lib.checked(order, len(source.ids))
  alone = {name: method for name, method in methods.items()
           if name not in along}
  shared: dict[str, Any] = dict(
      evidence=evidence, devices=devices, on_batch=on_batch)
  found: dict[str, Predictions] = {}
  if alone:
    found |= iterate(
        alone, task, source, head=head, batch_size=batch_size, **shared)
  if along and orders:
    found |= streams.iterate({name: methods[name] for name in along}, task,
                             source, orders, **shared)
  rank = {name: number for number, name in enumerate(methods)}
  return dict(sorted(found.items(), key=lambda item: rank[
      stages.of_settings(item[1].settings, item[0]).method]))


def check(
    methods: Methods, task: base.Task, source: sources.Source) -> base.Task:
  """Refuses methods that break the contract or lack what they need.

  Args:
    methods: Dataclasses of numbers by name.
    task: Task with text features, or with an encoder and a context.
    source: Source of the images.

  Returns:
    The task, its text features by their shape where they are not there.

  Raises:
    TypeError, ValueError: See `predict`.
  """
  return _checked(methods, task, source)[0]


def _checked(methods, task, source):
  """What `check` returns, and the images for what adapts the image tower."""
  _check_names(methods)
  deeper = _deeper(methods, source)
  task = task._replace(num_images=len(source.ids))
  if deeper is not None:
    task = task._replace(image_blocks=deeper.blocks)
  shaped = tasks.shaped(task)  # traces the text tower: once is enough
  _check_methods(methods, shaped, source, deeper)
  return shaped, deeper


def _as_source(source, task, *, labels, ids, class_names, model, num_views,
               seed, store):
  """Whatever was given, as a source with these labels and names.

  Of images by way of a store, where there is a folder for one.
  """
  if isinstance(source, image_sets.ImageSet):
    if model is None:
      raise ValueError("an image set needs the model that sees its images: "
                       "predict(..., model=jaxcal.load(...))")
    recipe = extract.recipe_of(model, num_views=num_views)
    found = (
        sources.from_images(model, source, recipe=recipe, seed=seed)
        if store is None else
        sources.through_store(model, source, store, recipe=recipe, seed=seed))
  elif isinstance(source, stores.Store):
    found = sources.from_store(
        source, config=None if model is None else model.config)
  elif isinstance(source, sources.Source):
    found = source
  else:
    found = sources.from_arrays(tasks.checked_features(source, task), ids=ids)
    ids = None
  if ids is not None:
    raise ValueError("ids are those of the source; give them with arrays only")
  changes = {}
  if labels is not None:
    changes["labels"] = _checked_labels(labels, task, len(found.ids))
  if isinstance(class_names, str):
    raise TypeError(f"class_names must be a list of names, got {class_names!r}")
  if class_names is not None:
    changes["class_names"] = tuple(class_names)
  found = found._replace(**changes)
  num_classes = len(tasks.shaped(task).text_features)
  if found.class_names and len(found.class_names) != num_classes:
    raise ValueError(f"{len(found.class_names)} class names, but the task has "
                     f"text features of {num_classes} classes")
  return found


def _checked_labels(labels, task, num_images):
  labels = as_numpy(labels)
  num_classes = len(tasks.shaped(task).text_features)
  if labels.shape != (num_images,) or labels.dtype.kind not in "iu":
    raise ValueError(f"expected one integer label for each of {num_images} "
                     f"images, got {labels.dtype} of shape {labels.shape}")
  if not 0 <= labels.min() <= labels.max() < num_classes:
    raise ValueError(f"labels must lie in [0, {num_classes}), but they span "
                     f"[{labels.min()}, {labels.max()}]")
  return labels.astype(np.int32)


def check_head(
    head: bayesian.Head | None, methods: Methods, task: base.Task) -> None:
  """Refuses a posterior without a method that it goes with.

  Args:
    head: Head of the posterior; None without one.
    methods: Dataclasses of numbers by name.
    task: Task of the images.

  Raises:
    ValueError: There is none.
  """
  if head is not None and not _prompt_family(methods, task):
    raise ValueError(
        "a posterior goes with zero_shot and methods that tune prompts, but "
        f"there are only {', '.join(methods)}; add one, or leave it out")


def output_names(
    methods: Methods, *, with_posterior: bool = False
) -> dict[str, stages.Stages]:
  """Names of the predictions that `iterate` gives, and the stages of each.

  Raises:
    ValueError: A posterior beside a method that predicts more than clean views.
  """
  names: dict[str, stages.Stages] = {}
  for name, method in methods.items():
    if isinstance(method, prompt_methods.PromptMethod):
      if with_posterior and not method.predicts_clean_view:
        raise ValueError(
            f"{name} predicts an image by all of its views, but a posterior "
            "sees the clean one alone; leave one of them out")
      names |= families.names({name: method}, with_posterior=with_posterior)
    else:
      names[name] = stages.Stages(name)
  return names


def iterate(
    methods: Methods,
    task: base.Task,
    source: sources.Source,
    *,
    order: Positions | None = None,
    head: bayesian.Head | None = None,
    evidence: Sequence[str] = (),
    linearisation: str = "auto",
    max_bytes: int = memory.shares(memory.ON_HOST).jacobian,
    batch_size: int | None = None,
    parts: pathlib.Path | None = None,
    identity: Mapping[str, Any] | None = None,
    about: Mapping[str, Mapping[str, Any]] | None = None,
    devices: Sequence[jax.Device] | None = None,
    on_batch: Callable[[int, int], None] | None = None,
    on_step: Callable[[str, float, int], None] | None = None,
) -> Iterator[tuple[str, Predictions]]:
  """`predict` one method after the other, resumable, on several processes.

  A generator: everything is computed when the first is asked for, and put
  together one method at a time. With several processes each calls this with
  the same arguments, and `parts` is a folder that all of them see.

  Args:
    methods: Dataclasses of numbers by name.
    task: Task with text features, or with an encoder and a context.
    source: Source from `features.sources`.
    order: Positions as methods with a state see them; as they come if None.
    head: Head of a posterior; with it every context of a method that tunes
      prompts also gives predictions in each of `bayesian.FORMS`, see
      `output_names`.
    evidence: Names of `predictions.EVIDENCE` to add.
    linearisation: See `tasks.prepare`.
    max_bytes: See `tasks.prepare`.
    batch_size: See `predict`. Where a device has no memory for it, the run goes
      on with half of it, and says so.
    parts: Folder that receives the outputs batch by batch, and twice a minute
      what methods with a state remember; what lies there from an interrupted
      run with the same arguments is not computed again.
    identity: What the outputs are of; that of unfinished work in `parts` must
      be the same. Not compared if None.
    about: Settings to write into the predictions, by name; where given, only
      these are returned.
    devices: Devices that share the images; those of all processes if None.
    on_batch: Function called with (images done, images in all) after each
      batch.
    on_step: Function called within a batch, too, with (what is being done,
      images done, images in all); an image that is half done counts half.

  Yields:
    (name, Predictions), in the order of the source; the same in each process.

  Raises:
    ValueError: See `predict`; an image cannot be read, features or outputs
      are not finite, a posterior is given and no method that it goes with, or
      a device has no memory even for one image.
  """
  shaped, deeper = _checked(methods, task, source)
  task = task._replace(num_images=shaped.num_images,
                       image_blocks=shaped.image_blocks)
  if deeper is not None:
    source = deeper.source
  _check_evidence(evidence, methods, task)
  check_head(head, methods, task)
  if batch_size is None:
    batch_size = 8 if _prompt_family(methods, task) else 256
  if batch_size < 1:
    raise ValueError(f"batch_size must be at least 1, got {batch_size}")
  if deeper is not None:
    batch_size = min(batch_size, deeper.most_images)
  mesh = sharding.data_mesh(devices)
  names = output_names(methods, with_posterior=head is not None)
  about = {name: {} for name in names} if about is None else about
  along = _streams(methods, shaped)
  order = orders_lib.checked(order, len(source.ids))
  with tempfile.TemporaryDirectory() as scratch:
    folder = parts or pathlib.Path(scratch)
    _open(folder, source, tuple(names), order if along else None, identity)
    missing = parts_lib.missing(folder, len(source.ids))
    sharding.barrier("missing")  # nobody writes before all have looked
    if len(missing):
      if on_step is not None:
        on_step("encoding the prompts", len(source.ids) - len(missing),
                len(source.ids))
      prepared = _prepared(
          methods, task, shaped, source, linearisation=linearisation,
          max_bytes=max_bytes)
      task = task._replace(text_features=prepared.text_features)
    while len(missing):
      try:
        _compute(
            methods, task, source, prepared, folder, missing, order, mesh,
            head=head, evidence=evidence, batch_size=batch_size,
            on_batch=on_batch, on_step=on_step)
        break
      except jax.errors.JaxRuntimeError as error:
        batch_size = _halved(batch_size, error)
      missing = parts_lib.missing(folder, len(source.ids))
    sharding.barrier("predicted")
    common = outputs_lib.common_evidence(folder, task, evidence)
    for name, settings in about.items():
      found = outputs_lib.gathered(folder, name, source, {
          **stages.setting(names[name]), **_scale(methods, task, names[name]),
          **settings}, common)
      yield name, _with_numbers(found, methods[names[name].method], task)


def _deeper(methods, source):
  """The images for methods that adapt the image tower; None without any.

  Raises:
    ValueError: The tower is not at hand, or does not have so many blocks.
  """
  number, name = max(
      ((base.image_blocks(method), name) for name, method in methods.items()),
      default=(0, ""))
  if not number:
    return None
  if source.deeper is None:
    raise ValueError(
        f"{name}: adapts the image tower, so it needs the images themselves; "
        "features, in a store or in arrays, or behind an adapter, do not tell "
        "what goes on in the tower. Give an image set and the model, or leave "
        "the method out")
  try:
    return source.deeper(number)
  except ValueError as error:
    raise ValueError(f"{name}: {error}") from error


def _open(folder, source, names, order, identity):
  """The folder of parts, after all processes agree on it."""
  if sharding.is_first():
    parts_lib.open_folder(folder, source.ids, names, order, identity)
  sharding.barrier("folder")
  parts_lib.open_folder(folder, source.ids, names, order, identity)


def _halved(batch_size, error):
  """Half the images per device, where there was no memory for all of them."""
  if not memory.is_exhausted(error):
    raise error
  advice = ("lower batch_size, the number of views or memory_gb, or take a "
            "lower precision of the image tower")
  if batch_size == 1 or jax.process_count() > 1:
    raise ValueError(f"a device has no memory left with {batch_size} images at "
                     f"a time; {advice}: {error}") from error
  logging.warning(
      "A device has no memory left with %d images at a time; going on with %d. "
      "To begin with less, %s.", batch_size, batch_size // 2, advice)
  return batch_size // 2


def _compute(methods, task, source, prepared, folder, missing, order, mesh, *,
             head, evidence, batch_size, on_batch, on_step):
  """Writes the outputs for all images that have none."""
  along = _streams(methods, task)
  start, states = _resumed(folder, along, task, order, missing)
  if along:
    todo = order[start:]
  else:
    lacks = np.isin(source.order, missing)
    todo, start = source.order[lacks], len(source.ids) - int(lacks.sum())
  rows = mesh.devices.size * batch_size
  batches = [todo[first:first + rows] for first in range(0, len(todo), rows)]
  alone = {name: method for name, method in methods.items()
           if name not in along}
  compute = _episodic(alone, task, prepared, head, evidence, mesh)
  total = len(source.ids)
  told = None if on_step is None else lambda what, count: on_step(
      what, min(start + count * rows, total), total)
  read = source.batches(batches, mesh, batch_size, told)
  compute = _told(compute, told)
  done, saved = start, time.monotonic()
  for asked, (batch, outputs) in zip(batches, _one_behind(read, compute)):
    outputs = sharding.gather_local(outputs)
    if along:
      before = done, states
      states, more = _follow(along, task, states, batch, done, len(asked),
                             mesh, batch_size)
      outputs |= more
      if time.monotonic() - saved > _SAVE_SECONDS:
        # As it was before this batch: all processes have come here by now, so
        # the parts before it are written. Those after it are computed again.
        pytree.save(folder / _STREAMS, before)
        saved = time.monotonic()
    if batch.mask.any():
      # This process's share of the batch, without the filling.
      outputs_lib.write(
          folder, source.ids, batch.positions[batch.mask],
          jax.tree.map(lambda x: x[batch.mask], outputs))
    done += len(asked)
    if on_batch is not None:
      on_batch(done, total)


def _told(compute, on_step):
  """The function, which says before each batch that it begins."""
  if on_step is None:
    return compute
  numbers = itertools.count()

  def telling(batch):
    number = next(numbers)
    # The image tower is through, or about to be: half of the batch.
    on_step("predicting" if number else "compiling the predictions",
            number + 0.5)
    return compute(batch)

  return telling


def _prompt_family(methods, task):
  """Methods that share the work of tuning prompts, where that is possible."""
  return {name: method for name, method in methods.items()
          if isinstance(method, prompt_methods.PromptMethod)
          and task.encode is not None}


def _scale(methods, task, of):
  """What settings say of the logit scale, where logits are scaled cosines."""
  if of.posterior is not None or not isinstance(
      methods[of.method], prompt_methods.PromptMethod):
    return {}
  return {predictions_lib.LOGIT_SCALE: float(task.logit_scale)}


def _streams(methods, task):
  """Methods with a state, of which an image sees what came before it."""
  found = {name: method.method() for name, method in methods.items()}
  return {name: method for name, method in found.items()
          if base.has_state(method, task)}


def _resumed(folder, along, task, order, missing):
  """How many images of the stream are done, and the states afterwards.

  From the beginning, where a part before that was lost.
  """
  begun = (0, {name: runners.begin(method, task, 1)
               for name, method in along.items()})
  done, states = pytree.load(folder / _STREAMS, begun)
  if np.isin(order[:int(done)], missing).any():
    return begun
  return int(done), states


def _follow(along, task, states, batch, first, count, mesh, batch_size):
  """The images of a batch one after the other, for methods with a state.

  Every process sees all of them; each hands back its own rows.
  """
  seen = sharding.gather(batch.view_features)[:count].astype(
      tasks.dtype_of(task), copy=False)
  mine = np.minimum(sharding.local_rows(mesh, batch_size), count - 1)
  states, outputs = dict(states), {}
  for name, method in along.items():
    states[name], found = runners.advance(
        method, task, states[name], seen, np.arange(count)[None])
    outputs[name] = outputs_lib.in_stream(
        jax.tree.map(lambda x: np.asarray(x)[0, mine], found), first + mine)
  return states, outputs


def _prepared(methods, task, shaped, source, *, linearisation, max_bytes):
  """What all images share; refuses text features that are not finite."""
  prompt = _prompt_family(methods, task)
  if prompt:
    # All images count, so that a resumed run chooses like the one before; but
    # none that only zero-shot predicts, which takes no gradient.
    steps = any(method.objective().num_steps for method in prompt.values())
    prepared: Any = tasks.prepare(
        shaped, num_images=len(source.ids) if steps else 0,
        linearisation=linearisation, max_bytes=max_bytes)
  else:
    prepared = tasks.encoded(task)
  _check_finite(prepared.text_features, "text features",
                source.class_names or range(len(prepared.text_features)))
  return prepared


def _episodic(methods, task, prepared, head, evidence, mesh):
  """The function from a batch of features to outputs by name."""
  prompt = _prompt_family(methods, task)
  alone = {name: method.method() for name, method in methods.items()
           if name not in prompt}
  family = None
  if prompt:
    family = families.family(families.share(
        task.encode, prepared, prompt,
        random_views=bool(set(VIEW_EVIDENCE) & set(evidence))), head)
    if not alone:
      task = task._replace(encode=None, context=None)
  common = tuple(name for name in COMMON_EVIDENCE if name in evidence)
  shared = sharding.replicate((task, family, alone), mesh)
  program = _program(mesh, head is not None, common, tuple(
      name for name in alone if base.image_blocks(methods[name])))

  def pooled_of(batch):
    if head is not None and batch.pooled is None:
      raise ValueError(
          "a posterior needs what the last projection sees, which features in "
          "arrays do not tell: give an image set or a feature store, and model")
    return batch.pooled if head is not None else None

  return lambda batch: program(
      shared, (batch.view_features, pooled_of(batch), batch.states))


@functools.cache  # as `jit` does: another pass does not compile again
def _program(mesh, with_posterior, evidence, of_tower=()):

  def outputs_of(shared, rows):
    task, family, alone = shared
    features, pooled, states = rows
    features = features.astype(tasks.dtype_of(task))
    outputs = runners.episodic_each(
        {name: method for name, method in alone.items()
         if name not in of_tower}, task, features)
    if of_tower:
      outputs |= runners.episodic_each(
          {name: alone[name] for name in of_tower}, task,
          base.Seen(features, states))
    if family is not None:
      # Of these it is known that the scores are logits.
      together: Any = runners.episodic(
          family, task, (features, pooled) if with_posterior else features)
      outputs |= {name: output._replace(log_probs=None)
                  for name, output in together.items()}
    clean = {"image_features": lambda: features[:, 0],
             "zero_shot_logits": lambda: base.logits(task, features[:, 0])}
    if evidence:
      outputs[""] = {name: clean[name]() for name in evidence if name in clean}
    return outputs

  return sharding.over_rows(outputs_of, mesh)


def _one_behind(batches, function):
  """(batch, result) pairs; the next batch is under way before one is used."""
  waiting = None
  for batch in batches:
    result = function(batch)
    if waiting is not None:
      yield waiting
    waiting = batch, result
  if waiting is not None:
    yield waiting


def _with_numbers(found, method, task):
  """Predictions that say to which weight and margin a method's numbers led."""
  numbers = {}
  if getattr(method, "effective_weight", None) is not None:
    numbers["weight"] = float(
        np.copysign(found.info["weight"][0], method.weight))
  if getattr(method, "delta_quantile", None) is not None:
    numbers["delta"] = float(
        method.of_classes(tasks.encoded(task).text_features).delta)
  if not numbers:
    return found
  return found._replace(settings={**found.settings, "numbers": {
      **found.settings.get("numbers", {}), **numbers}})


def _check_names(methods):
  """Refuses what are no methods by name."""
  if not isinstance(methods, Mapping) or not methods or not all(
      isinstance(name, str) and name for name in methods):
    raise TypeError("expected at least one method by its name, as in {\"tda\": "
                    f"jaxcal.Tda()}}, got {methods!r}")


def _check_methods(methods, task, source, deeper):
  """Refuses methods that break the contract or lack what they need."""
  views = jax.ShapeDtypeStruct(
      (source.num_views, task.text_features.shape[-1]), tasks.dtype_of(task))
  for name, method in methods.items():
    try:
      if isinstance(method, prompt_methods.PromptMethod):
        method.check(task, source.num_views)
      else:
        seen: Any = views
        if base.image_blocks(method):
          seen = base.Seen(seen, deeper.states)
        _check_fields(contract.check(method, task, seen).evidence)
    except (TypeError, ValueError) as error:
      raise type(error)(f"{name}: {error}") from error


def _check_fields(evidence):
  """Refuses what a method gives as evidence and no file has a place for."""
  known = {name: len(axes.split()) - 1
           for name, axes in predictions_lib.EVIDENCE.items()
           if axes.startswith("n ")}
  for name, values in evidence.items():
    if known.get(name) != len(values.shape):
      raise ValueError(
          f"evidence {name!r} of an image, of shape {values.shape}, has no "
          f"place in predictions; they hold, with so many axes: {known}")


def _check_evidence(evidence, methods, task):
  if isinstance(evidence, str):
    raise TypeError(f"evidence must be a list of names, got {evidence!r}")
  unknown = [name for name in evidence if name not in EVIDENCE]
  if unknown:
    raise ValueError(f"evidence {unknown[0]!r} cannot be computed here; choose "
                     f"from: {', '.join(EVIDENCE)}.")
  of_views = [name for name in evidence if name in VIEW_EVIDENCE]
  if of_views and not _prompt_family(methods, task):
    raise ValueError(
        f"evidence {of_views[0]!r} comes from zero_shot and the methods that "
        "tune prompts, where the task has an encoder; but it has none or there "
        f"are only {', '.join(methods)}")


def _check_finite(rows, what, names):
  broken = ~np.isfinite(np.asarray(rows)).all(-1)
  if broken.any():
    raise ValueError(
        f"the {what} are not finite for {broken.sum()} of {len(broken)}, the "
        f"first one {names[int(broken.argmax())]!r}. The weights were "
        "finite when they were loaded: do they overflow in this dtype?")
