"""What methods know of the classes: from a model and names, or from arrays."""

from collections.abc import Sequence
import dataclasses
import pathlib
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.adapt import base
from jaxcal.adapt.prompt import engine
from jaxcal.clip import checkpoint
from jaxcal.clip import encoder
from jaxcal.clip import prefix
from jaxcal.testbed import shipped
from jaxcal.testbed import variant
from jaxcal.typing import Array
from jaxcal.typing import as_numpy
from jaxcal.typing import Float

_GIGABYTE = 2**30
_TESTBED = "testbed"
_NORM_TOLERANCE = 1e-2  # what half precision leaves of a unit norm, and more
_BLOCK = 2**25  # values that are looked at in float64 at a time


def load(
    name_or_path: str | pathlib.Path,
    *,
    image_precision: str = "highest",
    text_precision: str = "highest",
) -> checkpoint.Model:
  """`checkpoint.load`, which also knows the shipped model as "testbed".

  Args:
    name_or_path: "testbed", or "testbed-stress" for its variant (see
      `testbed.variant`), a folder, or an id on the Hugging Face hub.
    image_precision: Precision of the image tower, see
      `checkpoint.in_precision`; "auto" is "bfloat16" on accelerators and
      "highest" elsewhere.
    text_precision: Precision of the text tower, likewise without "auto".

  Raises:
    ValueError: An unknown precision; or see `checkpoint.load`.
  """
  if image_precision == "auto":
    on_host = jax.default_backend() == "cpu"
    image_precision = "highest" if on_host else "bfloat16"
  if name_or_path in (_TESTBED, variant.NAME):
    model = dataclasses.replace(
        checkpoint.load(shipped.folder()), name=_TESTBED)
    if name_or_path == variant.NAME:
      model = variant.stressed(model)
  else:
    model = checkpoint.load(name_or_path)
  return checkpoint.in_precision(
      model, image=image_precision, text=text_precision)


def task_of(
    model: checkpoint.Model,
    class_names: Sequence[str],
    *,
    template: str = "a photo of a {}.",
    max_bytes: int = 4 * _GIGABYTE,
) -> base.Task:
  """What a model makes of class names: prompts that can be tuned, features.

  Args:
    model: Model from `load`.
    class_names: Names in label order.
    template: Prompt; the words before {} are the initial context.
    max_bytes: Budget of activations; classes are encoded in chunks to fit.

  Raises:
    ValueError: See `prompts.prompt_bank`.
  """
  return encoded(unencoded_task(
      model, class_names, template=template, max_bytes=max_bytes))


def unencoded_task(
    model: checkpoint.Model,
    class_names: Sequence[str],
    *,
    template: str = "a photo of a {}.",
    num_context_tokens: int | None = None,
    class_position: str = "end",
    max_bytes: int = 4 * _GIGABYTE,
    num_contexts: int = 1,
) -> base.Task:
  """`task_of` without text features, for `run.iterate`, which prepares them.

  Args:
    model: Model from `load`.
    class_names: Names in label order.
    template: Prompt; the words before {} are the initial context.
    num_context_tokens: Number of placeholders that, if given, stand in for
      these words: room for another context, which is to take their place.
    class_position: Place of the name among the context's tokens, see
      `prompts.prompt_bank`.
    max_bytes: Budget of activations; classes are encoded in chunks to fit.
    num_contexts: Contexts that will be encoded at once, under `vmap`.

  Raises:
    ValueError: See `prompts.prompt_bank`.
  """
  bank = encoder.prompt_bank(
      model, class_names, template=template,
      num_context_tokens=num_context_tokens, class_position=class_position)
  encode = encoder.context_encoder(
      model, bank, max_bytes=max_bytes, num_contexts=num_contexts)
  return base.Task(
      None, logit_scale_of(model),  # type: ignore[arg-type]
      encode, encoder.initial_context(model, bank))


def logit_scale_of(model: checkpoint.Model) -> Float[Array, ""]:
  """The factor of the cosines in a model's logits."""
  return jnp.exp(model.params["logit_scale"])


def prepare(
    task: base.Task,
    *,
    num_images: int,
    linearisation: str = "auto",
    max_bytes: int = 4 * _GIGABYTE,
) -> engine.Prepared:
  """`engine.prepare`, compiled, choosing the faster linearisation.

  Args:
    task: Task with an encoder and a context; text features tell their shape
      alone.
    num_images: Images that will be adapted; if 0, no derivative is kept.
    linearisation: Linearisation, "vjp", "jacobian", or "auto" to choose.
    max_bytes: Budget for the Jacobian.
  """
  features = shaped(task).text_features
  if not num_images:
    linearisation = "none"
  elif linearisation == "auto":
    linearisation = "vjp"
    if isinstance(task.encode, prefix.Encoder) and task.context is not None:
      num_classes, width = features.shape
      linearisation = engine.choose_linearisation(
          num_classes, width, task.context.size, num_images=num_images,
          max_bytes=max_bytes)
  if linearisation == "jacobian":
    logging.warning(
        "preparing the Jacobian of the text tower, once: takes about as long "
        "as %d images (--config.linearisation=vjp goes without)",
        4 * features.shape[-1])
  return jax.jit(engine.prepare, static_argnames="linearisation")(
      task.encode, task.context, task.logit_scale, linearisation=linearisation)


def encoded(task: base.Task) -> base.Task:
  """The task with its text features, encoded if they are not there yet."""
  if task.text_features is not None:
    return task
  return task._replace(text_features=_encode(task.encode, task.context))


def shaped(task: base.Task) -> base.Task:
  """The task with text features of the right shape, not yet computed."""
  if task.text_features is not None:
    return task
  return task._replace(
      text_features=jax.eval_shape(task.encode, task.context))


def checked(task: base.Task) -> base.Task:
  """The task with arrays of jax, whatever they came in, float32 at least.

  Raises:
    ValueError: Text features that are not [classes, dimensions] of unit norm,
      a scale that is not a positive number, an encoder without a context.
    TypeError: Something that is no task.
  """
  if not isinstance(task, base.Task):
    raise TypeError(
        "expected a task, from jaxcal.task_of(model, class_names) or "
        "jaxcal.Task(text_features, logit_scale), got a "
        f"{type(task).__name__}")
  if (task.encode is None) != (task.context is None):
    raise ValueError("a task needs `encode` and `context` together, or neither")
  scale = as_numpy(task.logit_scale)
  if scale.dtype.kind not in "fiu" or scale.shape not in ((), (1,)) or not (
      np.isfinite(scale) & (scale > 0)):
    raise ValueError("logit_scale must be one positive number, the factor of "
                     "the cosines (100 for OpenAI's CLIP, not its logarithm), "
                     f"but it is {scale}")
  features = task.text_features
  if features is None:
    if task.encode is None:
      raise ValueError(
          "a task needs text features, or an encoder and a context")
  else:
    host = as_numpy(features)
    if host.ndim != 2 or not host.size or host.dtype.kind not in "fiu":
      raise ValueError("text features must be numbers [classes, dimensions], "
                       f"but their shape is {host.shape} and their dtype "
                       f"{host.dtype}")
    _check_unit_norm(host, "text features")
    features = jnp.asarray(host, _computing_dtype(host))
  task = task._replace(text_features=features)
  return task._replace(
      logit_scale=jnp.asarray(scale.reshape(()), dtype_of(task)))


def dtype_of(task: base.Task) -> np.dtype:
  """What methods compute in: that of the text features, float32 at least."""
  return jnp.promote_types(shaped(task).text_features.dtype, jnp.float32)


def checked_features(
    features: Any, task: base.Task) -> Float[np.ndarray, "n v d"]:
  """Image features as an array of views, float32 at least.

  Where they are that already, their memory is shared.

  Args:
    features: Unit-norm features [n d], or of views [n v d].
    task: What they will be compared with.

  Raises:
    ValueError: Another shape or width, or another norm.
    TypeError: Something that is no array.
  """
  try:
    features = as_numpy(features)
  except ValueError as error:
    raise ValueError(f"image features: {error}") from error
  if features.dtype.kind not in "fiu":
    raise TypeError("expected features as an array, an open feature store or "
                    f"an ImageSet, got {type(features).__name__} of "
                    f"{features.dtype}")
  width = shaped(task).text_features.shape[-1]
  if features.ndim not in (2, 3) or not features.size or (
      features.shape[-1] != width):
    raise ValueError(f"image features must be [images, {width}], or [images, "
                     f"views, {width}], as wide as the text features, but "
                     f"their shape is {features.shape}")
  _check_unit_norm(features, "image features")
  if features.ndim == 2:
    features = features[:, None]
  return features.astype(_computing_dtype(features), copy=False)


def _computing_dtype(features):
  """float32, or float64 where JAX has it and they are that wide."""
  wide = features.dtype.itemsize > 4 and features.dtype.kind == "f"
  return jax.dtypes.canonicalize_dtype(np.float64 if wide else np.float32)


def _check_unit_norm(features, what):
  rows = max(1, _BLOCK // features[0].size)
  # Block by block: a copy in float64 would be twice what there is.
  norms = np.concatenate([
      np.linalg.norm(features[first:first + rows].astype(np.float64), axis=-1)
      for first in range(0, len(features), rows)])
  if not np.isfinite(norms).all():
    raise ValueError(f"{what} must be finite, but {(~np.isfinite(norms)).sum()}"
                     f" of {norms.size} rows are not")
  if np.abs(norms - 1).max() > _NORM_TOLERANCE:
    raise ValueError(
        f"{what} must have unit norm, but their norms lie in "
        f"[{norms.min():.3g}, {norms.max():.3g}]; divide them by "
        "np.linalg.norm(features, axis=-1, keepdims=True)")


@jax.jit
def _encode(encode, context):
  return encode(context)
