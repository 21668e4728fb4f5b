"""A tiny CLIP and the few-shot numbers that were computed with it in float64.

The folder's README says what every key is.
"""

from collections.abc import Mapping
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.clip import checkpoint
from jaxcal.clip import prefix
from jaxcal.clip import prompts as prompts_lib
from jaxcal.clip import towers
from jaxcal.tuning import dor
from jaxcal.tuning import method as method_lib
from jaxcal.tuning import training
from tests import quick
from tests import shared

# Of the stored steps.
LEARNING_RATE = 0.002
# One object, so that groups of the same shapes share a program.
SGD = training.sgd(LEARNING_RATE)

# Compiled, as methods are when they are used; their arrays are arguments.
logits = quick.jit(lambda method, *given: method.logits(*given))
step = quick.jit(
    lambda method, *given: training.value_and_gradient(method)(*given))


class Oracle(NamedTuple):
  """Call `load` under `jax.enable_x64(True)`; everything is float64.

  Attributes:
    stored: The numbers, by key.
    config: Sizes of the tiny model.
    params: Its parameters.
    images: All 8, with every field filled in.
    labels: Of the images, in the 6 base classes.
    logit_scale: Factor of the cosines, 100.
  """

  stored: Mapping[str, np.ndarray]
  config: towers.ClipConfig
  params: towers.Params
  images: method_lib.Images
  labels: jax.Array
  logit_scale: jax.Array

  def bank(
      self, ids: str, group: str, *, num_context: int = 4,
      class_position: str = "end",
  ) -> prompts_lib.PromptBank:
    """Prompts `ids` (words4, x4, x2, x4words4, pet) of base, new or outlier."""
    rows = self.stored[f"ids/{ids}/{group}"]
    lengths = self.stored[f"names/{group}_ntok"]
    in_front = {"end": num_context, "middle": num_context // 2,
                "front": 0}[class_position]
    moved, positions = [], []
    for row, length in zip(rows, lengths):
      start, context, name, rest = np.split(
          row, np.cumsum([1, num_context, length]))
      if class_position == "end":
        name, rest = row[:0], row[1 + num_context:]
      moved.append(np.concatenate(
          [start, context[:in_front], name, context[in_front:], rest]))
      positions.append(
          1 + np.arange(num_context) +
          np.where(np.arange(num_context) >= in_front, len(name), 0))
    moved = np.stack(moved)
    ends = prompts_lib.end_positions(moved, self.config.eos_token_id)
    return prompts_lib.from_token_ids(moved, np.stack(positions), ends)

  def prompts(
      self, ids: str, group: str, *, num_context: int = 4,
      class_position: str = "end", plain: bool = False, max_groups: int = 1,
  ) -> method_lib.Prompts:
    """`Prompts` of base, new or outlier.

    Args:
      ids: See `bank`, as `num_context` and `class_position`.
      group: base, new or outlier. Outliers have no template of their own, so
        "a photo of a {}." takes its place.
      plain: Whether the encoder is that of `prompts` and not of `prefix`.
      max_groups: See `prefix.context_encoder`.
    """
    bank = self.bank(ids, group, num_context=num_context,
                     class_position=class_position)
    encode = (
        prompts_lib.context_encoder(self.config, self.params, bank) if plain
        else prefix.context_encoder(
            self.config, self.params, bank, max_groups=max_groups))
    template = "words4" if group == "outlier" else "pet"
    zero_shot = self.stored[f"zs/text_raw/words4/{group}"]
    embeddings = self.stored[f"zs/text_raw/{template}/{group}"]
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
    return method_lib.Prompts(encode, *jax.device_put((
        unit(zero_shot), unit(embeddings), embeddings)))

  def context(self, ids: str, num_context: int) -> jax.Array:
    """Vectors of the words that the context overwrites, [m w]."""
    return prompts_lib.initial_context(
        self.params, self.bank(ids, "base", num_context=num_context))

  def batch(
      self, rows: np.ndarray | slice = slice(None),
      outliers: method_lib.Prompts | None = None,
  ) -> method_lib.Batch:
    """Some of the 8 images."""
    images, labels = jax.device_put(jax.tree.map(
        lambda x: np.asarray(x)[rows], (self.images, self.labels)))
    return method_lib.Batch(images, labels, outliers)


@functools.cache
def load() -> Oracle:
  """The model and the numbers; skips the test where they are absent."""
  folder = shared.path("oracles/few_shot")
  with np.load(folder / "fewshot_oracle.npz", allow_pickle=False) as file:
    stored = dict(file)
  model = checkpoint.load(folder / "hf_clip_tiny")
  params = jax.device_put(jax.tree.map(np.float64, model.params))
  features, embeddings, pixels, labels, scale = jax.device_put((
      stored["zs/image_features"], stored["zs/image_features_raw"],
      np.float64(stored["images"].transpose(0, 2, 3, 1)), stored["labels"],
      stored["zs/logit_scale_exp"]))
  images = method_lib.Images(
      features=features, embeddings=embeddings,
      pooled=quick.jit(towers.pooled_image)(model.config, params, pixels),
      pixels=pixels)
  return Oracle(stored, model.config, params, images, labels, scale)


def params(
    stored: Mapping[str, np.ndarray], name: str, when: str,
) -> dict[str, Any]:
  """A group's parameters at "init" or "final", or their "grad"."""
  at = lambda key: stored[f"{name}/{when}/{key}"]
  result = {"context": at("ctx")}
  if f"{name}/{when}/meta.0.bias" in stored:
    result["meta"] = {
        ours: {"kernel": at(f"meta.{number}.weight").T,
               "bias": at(f"meta.{number}.bias")}
        for ours, number in (("hidden", 0), ("out", 2))}
  if f"{name}/{when}/deep_text.1" in stored:
    layers = lambda key: np.stack([
        at(key.format(layer)) for layer in range(4)
        if f"{name}/{when}/{key.format(layer)}" in stored])
    result["deep_text"] = layers("deep_text.{}")
    if f"{name}/{when}/vision_ctx" in stored:
      result["vision"] = np.concatenate(
          [at("vision_ctx")[None], layers("deep_vision.{}")])
    else:
      result["vision"] = {
          "kernel": layers("vision_proj.{}.weight").swapaxes(1, 2),
          "bias": layers("vision_proj.{}.bias")}
  return jax.device_put(result)


def assert_stored(
    oracle: Oracle,
    name: str,
    method: method_lib.Method,
    prompts: method_lib.Prompts,
    *,
    outliers: method_lib.Prompts | None = None,
    rows: np.ndarray | slice = slice(None),
    labels: np.ndarray | None = None,
    parts: Mapping[str, str] | None = None,
) -> None:
  """Compares logits, loss, gradient and its parts at the start of a group.

  Args:
    oracle: From `load`.
    name: Of the group.
    method: Ours.
    prompts: Base classes.
    outliers: All of them; the stored ones are taken.
    rows: Images of loss and gradient.
    labels: Of all images, where the group has its own.
    parts: Stored name of each of our parts of the loss.
  """
  stored, start = oracle.stored, params(oracle.stored, name, "init")
  np.testing.assert_allclose(
      logits(method, start, prompts, oracle.images),
      stored[f"{name}/logits_base_init"], atol=1e-9)
  if labels is not None:
    oracle = oracle._replace(labels=jax.device_put(labels))
  if outliers is not None:
    outliers = dor.take(outliers, stored["outlier_idx"][0])
  batch = oracle.batch(rows, outliers)
  (loss, found), gradient = step(method, start, prompts, batch)
  np.testing.assert_allclose(loss, stored[f"{name}/loss"], rtol=1e-9)
  for ours, theirs in (parts or {}).items():
    np.testing.assert_allclose(
        found[ours], stored[f"{name}/{theirs}"], rtol=1e-9, atol=1e-9)
  expected = params(stored, name, "grad")
  jax.tree.map(assert_relative, gradient, expected)


def assert_steps(
    oracle: Oracle,
    name: str,
    method: method_lib.Method,
    prompts: method_lib.Prompts,
    *,
    new: method_lib.Prompts,
    outliers: training.Outliers | None = None,
) -> None:
  """Compares a group's losses, parameters and logits along three steps."""
  stored, start = oracle.stored, params(oracle.stored, name, "init")
  rows = jax.device_put(stored["batch_idx"])
  state = training.State(
      start, SGD.init(start), jax.tree.map(jnp.zeros_like, start),
      jnp.zeros((), jnp.int32), jax.random.key(0))
  state, parts = training.train_epoch(
      method, SGD, state, prompts, training.Data(oracle.images, oracle.labels),
      training.Order(rows, rows[0, :0]), outliers)
  np.testing.assert_allclose(
      parts["loss"], stored[f"{name}/step_losses"], rtol=1e-9)
  jax.tree.map(assert_relative, state.params, params(stored, name, "final"))
  for names, which in ((prompts, "base"), (new, "new")):
    np.testing.assert_allclose(
        logits(method, state.params, names, oracle.images),
        stored[f"{name}/logits_{which}_final"], atol=1e-7)


def assert_relative(actual: Any, expected: Any, tolerance: float = 1e-8):
  """Close, in relation to the largest entry."""
  np.testing.assert_allclose(
      actual, expected, rtol=0,
      atol=tolerance * float(np.abs(np.asarray(expected)).max()))
