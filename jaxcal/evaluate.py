"""From images to Predictions: one pass over a set serves all methods.

The views of an image go through the image tower once; every method then tunes
and answers from the same features. Each device works on its own images with
the same program, so the answers do not depend on how many devices there are.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import functools
import json
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np
import optax

from jaxcal import predictions as predictions_lib
from jaxcal.adapt import engine
from jaxcal.adapt import objectives
from jaxcal.clip import checkpoint
from jaxcal.clip import preprocess
from jaxcal.clip import prompts
from jaxcal.clip import towers
from jaxcal.data import image_set as image_sets
from jaxcal.data import pipeline
from jaxcal.typing import Array
from jaxcal.typing import Float
from jaxcal.typing import UInt8

Predictions = predictions_lib.Predictions


class Answer(NamedTuple):
  """One method's answers for a batch of images."""

  logits: Float[Array, "b k"]
  info: engine.Info  # one number per image in each field


def evaluate(
    model: checkpoint.Model,
    image_set: image_sets.ImageSet,
    methods: Mapping[str, objectives.Method],
    *,
    make_views: Callable[
        [UInt8[np.ndarray, "h w 3"], str], UInt8[np.ndarray, "v s s 3"]],
    template: str = "a photo of a {}.",
    optimizer: optax.GradientTransformation | None = None,
    selection_fraction: float = 0.1,
    batch_size: int = 8,
    num_threads: int = 4,
    parts: pathlib.Path | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    devices: Sequence[jax.Device] | None = None,
    on_batch: Callable[[int, int], None] | None = None,
) -> dict[str, Predictions]:
  """Answers of every method for every image of a set.

  Args:
    model: From `checkpoint.load`.
    image_set: Labelled images; labels are only copied to the result.
    methods: Methods by the name under which their answers are returned.
    make_views: (image uint8 [h w 3], id) -> uint8 [v s s 3]; view 0 is the
      clean one, which is answered.
    template: Prompt; the words before {} are the initial context.
    optimizer: Of the tuning; `engine.default_optimizer()` if None.
    selection_fraction: See `engine.adapt`.
    batch_size: Images per device and step. No influence on the answers beyond
      rounding.
    num_threads: Threads that read images and cut views.
    parts: Folder that receives the answers batch by batch; what lies there
      from an interrupted run with the same settings is not computed again.
    settings: What to write into the predictions of each method.
    devices: That share the images; all if None.
    on_batch: Called with (images done, images in all) after each batch.

  Returns:
    Predictions by method, in the order of the set.

  Raises:
    ValueError: the set does not hold together (see `image_set.check`), a class
      name is too long, an image cannot be read, or features or answers are not
      finite.
  """
  image_sets.check(image_set)
  devices = devices or jax.devices()
  mesh = jax.make_mesh((len(devices),), ("data",), devices=devices,
                       axis_types=(AxisType.Auto,))
  answer = _answering(model, image_set, methods, template=template, mesh=mesh,
                      optimizer=optimizer or engine.default_optimizer(),
                      selection_fraction=selection_fraction)
  # As JSON gives them back, so that parts of before and after an interruption
  # are seen to be of one run.
  settings = json.loads(json.dumps(settings or {name: {} for name in methods}))
  blank = {name: Predictions(None, None, (), image_set.class_names, {},
                             settings[name]) for name in methods}
  finished = _load_parts(parts, image_set, blank)
  done = sum(len(part[next(iter(methods))].ids) for part in finished)
  total = len(image_set.ids)
  for batch in pipeline.batches(
      image_set, make_views, batch_size=batch_size * len(devices),
      num_threads=num_threads, start=done):
    part = _part(jax.device_get(answer(batch.views)), batch, blank)
    _save_part(parts, done, part)
    finished.append(part)
    done += int(batch.mask.sum())
    if on_batch is not None:
      on_batch(done, total)
  return {name: predictions_lib.concatenate([part[name] for part in finished])
          for name in methods}


def _answering(model, image_set, methods, *, template, mesh, optimizer,
               selection_fraction):
  """The compiled function from views [b v s s 3] to an Answer per method."""
  bank = prompts.prompt_bank(
      model.tokenizer, image_set.class_names, template=template,
      context_length=model.config.context_length,
      eos_token_id=model.config.eos_token_id)
  encode = prompts.context_encoder(model.config, model.params, bank)
  prepared = jax.jit(engine.prepare)(
      encode, prompts.initial_context(model.params, bank),
      jnp.exp(model.params["logit_scale"]))
  _check_finite(prepared.text_features, "text features", image_set.class_names)
  replicated = jax.device_put(
      (model.params, encode, prepared, dict(methods)),
      NamedSharding(mesh, PartitionSpec()))
  per_device = functools.partial(
      answer_batch, _image_features(model), optimizer=optimizer,
      selection_fraction=selection_fraction)
  # Without the check of varying axes: with it, the derivative by a replicated
  # value (the context) would be summed over devices, images mixed with others.
  over_devices = jax.jit(jax.shard_map(
      per_device, mesh=mesh,
      in_specs=(*(PartitionSpec() for _ in replicated), PartitionSpec("data")),
      out_specs=PartitionSpec("data"), check_vma=False))
  by_image = NamedSharding(mesh, PartitionSpec("data"))
  return lambda views: over_devices(
      *replicated, jax.device_put(views, by_image))


def _image_features(model):
  """From (parameters, pixels uint8 [n s s 3]) to unit-norm features [n d]."""
  mean, std = model.preprocess.mean, model.preprocess.std
  return lambda params, pixels: towers.image_features(
      model.config, params, preprocess.normalize_pixels(pixels, mean, std))


def answer_batch(
    image_features: Callable[..., Float[Array, "n d"]],
    params: Any,
    encode: engine.Encode,
    prepared: engine.Prepared,
    methods: Mapping[str, objectives.Method],
    views: UInt8[Array, "b v s s 3"],
    *,
    optimizer: optax.GradientTransformation,
    selection_fraction: float,
) -> dict[str, Answer]:
  """Features of all views once, then every method on them; for `jit`."""
  b, v = views.shape[:2]
  features = image_features(params, views.reshape(b * v, *views.shape[2:]))
  features = features.reshape(b, v, -1)

  def answer(method):
    adapt = functools.partial(
        engine.adapt, optimizer=optimizer,
        selection_fraction=selection_fraction)
    adapted = jax.vmap(adapt, in_axes=(None, None, 0, None))(
        encode, prepared, features, method)
    return Answer(adapted.logits, adapted.info)

  return {name: answer(method) for name, method in methods.items()}


def _part(answers, batch, blank):
  """The answers for the images of a batch that are not filling."""
  real = batch.mask
  ids = tuple(np.asarray(batch.ids, object)[real])
  part = {}
  for name, empty in blank.items():
    answer = answers[name]
    _check_finite(answer.logits[real], f"logits of {name}", ids)
    part[name] = empty._replace(
        logits=answer.logits[real], labels=batch.labels[real], ids=ids,
        info={key: value[real] for key, value in answer.info._asdict().items()})
  return part


def _check_finite(rows, what, names: Iterable[str]):
  broken = ~np.isfinite(np.asarray(rows)).all(-1)
  if broken.any():
    raise ValueError(
        f"the {what} are not finite for {broken.sum()} of {len(broken)}, the "
        f"first one {tuple(names)[int(broken.argmax())]!r}. The weights were "
        "finite when they were loaded: do they overflow in this dtype?")


def _part_path(parts, first, name):
  return parts / f"{first:08d}" / name


def _save_part(parts, first, part):
  """Writes one batch; its folder appears only when all methods are there."""
  if parts is None:
    return
  half = parts / "half"
  for name, one in part.items():
    predictions_lib.save(one, half / name)
  half.rename(parts / f"{first:08d}")


def _load_parts(parts, image_set, blank):
  """Finished batches of an interrupted run, as far as they are without gap."""
  finished, done = [], 0
  while parts is not None and (parts / f"{done:08d}").is_dir():
    part = {name: predictions_lib.load(_part_path(parts, done, name))
            for name in blank}
    first = next(iter(part.values()))
    if first.ids != image_set.ids[done:done + len(first.ids)]:
      raise ValueError(
          f"{parts} holds answers for other images than {image_set.name!r}; "
          "remove it, or write to another folder")
    finished.append(part)
    done += len(first.ids)
  return finished
