"""Trains the testbed's small CLIP from scratch and writes its folder.

    python -m jaxcal.testbed.train --output=DIR

Contrastive training on drawn scenes, helped by linear heads that predict the
scene's attributes from the image feature; their weight falls to zero before
the end and they are not exported. Every random choice follows from the seed
and the step, so a run resumed from a checkpoint equals an uninterrupted one.
"""

from collections.abc import Callable, Sequence
from concurrent import futures
import functools
import multiprocessing
import pathlib
import time
from typing import NamedTuple

from absl import app
from absl import flags
from absl import logging
from flax import serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcal import precision
from jaxcal.clip import preprocess
from jaxcal.clip import towers
from jaxcal.testbed import captions
from jaxcal.testbed import digits
from jaxcal.testbed import export
from jaxcal.testbed import scenes
from jaxcal.testbed import sets
from jaxcal.testbed import tokenizer
from jaxcal.typing import AnyArray
from jaxcal.typing import Array
from jaxcal.typing import Bool
from jaxcal.typing import Float
from jaxcal.typing import Int
from jaxcal.typing import PyTree
from jaxcal.typing import UInt8

_VOCABULARY, _ = tokenizer.build(captions.vocabulary())

MODEL = towers.ClipConfig(
    text=towers.TowerConfig(width=128, layers=3, heads=4, mlp_width=512),
    vision=towers.TowerConfig(width=128, layers=4, heads=4, mlp_width=512),
    vocab_size=len(_VOCABULARY),
    context_length=tokenizer.CONTEXT_LENGTH,
    eos_token_id=_VOCABULARY[tokenizer.END],
    image_size=48,
    patch_size=12,
    projection=128,
)
STEPS = 9000
BATCH_SIZE = 128
POOL_SIZE = 100_000
LEARNING_RATE = 1.5e-3
WEIGHT_DECAY = 0.1

# One scene in eight is a handwritten digit.
_DIGIT_PERIOD = 8
# The longest caption has 16 tokens; sentences are padded no further.
_CAPTION_LENGTH = 16
# Classes of each auxiliary head, and its weight. Shapes are the slow part.
_HEADS = {
    "subject": (len(scenes.SUBJECTS), 2.),
    "colour": (len(scenes.COLOURS), .5),
    "texture": (len(scenes.TEXTURES), .5),
    "style": (len(scenes.STYLES), .5),
}
_HEADS_END = 0.85
_MAX_LOG_SCALE = float(np.log(100))

# First words of the seed sequences, so that no two streams meet; the image
# sets use others.
_POOL_STREAM = 1
_BATCH_STREAM = 2


class Pool(NamedTuple):
  """Training scenes drawn ahead: their pixels and their attributes."""

  images: UInt8[np.ndarray, "n 64 64 3"]
  values: Int[np.ndarray, "n a"]


class Batch(NamedTuple):
  """What one step sees.

  Attributes:
    images: Scenes.
    windows: The part of each scene that is shown: top, left, height and width
      in pixels.
    token_ids: Token ids, one caption per scene, padded.
    values: The scenes' attributes.
    matches: Whether the caption of the column is true of the scene of the row.
  """

  images: UInt8[AnyArray, "b 64 64 3"]
  windows: Float[AnyArray, "b 4"]
  token_ids: Int[AnyArray, "b t"]
  values: Int[AnyArray, "b a"]
  matches: Bool[AnyArray, "b b"]


class State(NamedTuple):
  """Everything that a step changes."""

  params: PyTree
  optimiser: PyTree
  step: Int[Array, ""]


def draw_pool(size: int, seed: int, *, workers: int = 2) -> Pool:
  """Draws the training scenes; the number of workers changes nothing."""
  draw = functools.partial(_draw_example, seed)
  if workers == 1:
    return _stack(map(draw, range(size)))
  spawn = multiprocessing.get_context("spawn")
  with futures.ProcessPoolExecutor(workers, mp_context=spawn) as pool:
    return _stack(pool.map(draw, range(size), chunksize=500))


def training_scene(seed: int, index: int | np.integer) -> scenes.Scene:
  """The scene at a place of the pool."""
  rng = np.random.default_rng([_POOL_STREAM, seed, int(index)])
  if index % _DIGIT_PERIOD:
    return scenes.draw(rng)
  return scenes.draw(rng, scan=int(rng.choice(digits.split("train"))))


def _draw_example(seed, index):
  scene = training_scene(seed, index)
  return scenes.render(scene), captions.attributes(scene)


def _stack(examples):
  images, values = zip(*examples)
  return Pool(np.stack(images), np.stack(values))


def draw_batch(pool: Pool, size: int, seed: int, step: int) -> Batch:
  """Scenes of one step with fresh windows and captions."""
  rng = np.random.default_rng([_BATCH_STREAM, seed, step])
  rows = rng.integers(len(pool.images), size=size)
  values = pool.values[rows]
  written = [captions.compose(row, rng) for row in values]
  claims = np.stack([caption.claims for caption in written])
  # Half of the scenes are seen whole, half through a window of 0.4 to 1 of
  # their area.
  area = np.where(rng.random(size) < .5, 1., rng.uniform(.4, 1, size))
  stretch = np.exp(rng.uniform(-.15, .15, size))
  height = np.minimum(np.sqrt(area) * stretch, 1) * scenes.SIDE
  width = np.minimum(np.sqrt(area) / stretch, 1) * scenes.SIDE
  top = rng.random(size) * (scenes.SIDE - height)
  left = rng.random(size) * (scenes.SIDE - width)
  return Batch(
      images=pool.images[rows],
      windows=np.stack([top, left, height, width], -1).astype(np.float32),
      token_ids=tokenizer.encode_all(
          [caption.text for caption in written], _VOCABULARY, _CAPTION_LENGTH),
      values=values.astype(np.int32),
      matches=captions.is_true(claims, values),
  )


def init(config: towers.ClipConfig, seed: int) -> State:
  """Fresh towers and heads, and the optimiser before its first step."""
  params = {
      "clip": towers.init(config, jax.random.key(seed)),
      "heads": {
          name: jnp.zeros((config.vision.width, classes))
          for name, (classes, _) in _HEADS.items()
      },
  }
  return State(
      params, _optimiser(STEPS).init(params), jnp.zeros((), jnp.int32))


def _optimiser(steps):
  learning_rate = optax.warmup_cosine_decay_schedule(
      0., LEARNING_RATE, warmup_steps=min(400, steps // 10 + 1),
      decay_steps=steps, end_value=LEARNING_RATE / 100)
  return optax.chain(
      optax.clip_by_global_norm(1.),
      optax.adamw(learning_rate, b2=.98, eps=1e-6, weight_decay=WEIGHT_DECAY,
                  mask=_is_kernel),
  )


def _is_kernel(tree):
  """Marks the leaves that weight decay touches."""
  return jax.tree_util.tree_map_with_path(
      lambda path, _: path[-1].key == "kernel", tree)


def _pixels(config, images, windows):
  """Windows of the images at the model's size, normalised."""
  side = config.image_size

  def cut(image, window):
    scale = side / window[2:]
    return jax.image.scale_and_translate(
        image, (side, side, 3), (0, 1), scale, -window[:2] * scale,
        method="cubic")

  unit = jax.vmap(cut)(images.astype(jnp.float32) / 255, windows).clip(0, 1)
  mean, std = jnp.array(preprocess.CLIP_MEAN), jnp.array(preprocess.CLIP_STD)
  return (unit - mean[None, None, None]) / std[None, None, None]


def _text_features(config, params, token_ids):
  ends = jnp.argmax(token_ids == config.eos_token_id, axis=-1)
  return towers.text_features(
      config, params, towers.token_embeddings(params, token_ids), ends)


def _contrastive_loss(logits, matches):
  """Mean cross entropy of both directions; true captions are no negatives."""
  own = jnp.eye(len(logits), dtype=bool)
  logits = jnp.where(matches & ~own, -jnp.inf, logits)
  labels = jnp.arange(len(logits))
  cross_entropy = optax.softmax_cross_entropy_with_integer_labels
  return (cross_entropy(logits, labels).mean()
          + cross_entropy(logits.T, labels).mean()) / 2


def _heads_loss(heads, pooled, values):
  """Weighted cross entropies of the attributes that are seen."""
  total = 0.
  for name, (_, weight) in _HEADS.items():
    labels = values[:, captions.ATTRIBUTES.index(name)]
    losses = optax.softmax_cross_entropy_with_integer_labels(
        pooled @ heads[name], labels.clip(0))
    total += weight * (losses * (labels >= 0)).mean()
  return total


@precision.highest
def _loss(params, config, batch, heads_weight):
  clip = params["clip"]
  pixels = _pixels(config, batch.images, batch.windows)
  pooled = towers.pooled_image(config, clip, pixels).activations
  images = towers.normalise(
      towers.project(pooled, towers.image_projection(config, clip)))
  texts = _text_features(config, clip, batch.token_ids)
  scale = jnp.exp(jnp.minimum(clip["logit_scale"], _MAX_LOG_SCALE))
  contrastive = _contrastive_loss(scale * images @ texts.T, batch.matches)
  heads = _heads_loss(params["heads"], pooled, batch.values)
  return contrastive + heads_weight * heads, (contrastive, heads)


@functools.partial(jax.jit, static_argnames=("config", "steps"))
def update(
    config: towers.ClipConfig, state: State, batch: Batch, *, steps: int
) -> tuple[State, Float[Array, "2"]]:
  """One optimiser step of a run of `steps`.

  Returns:
    The next state, and the contrastive and the heads' loss in nats.
  """
  heads_weight = jnp.maximum(0., 1 - state.step / (_HEADS_END * steps))
  gradient, losses = jax.grad(_loss, has_aux=True)(
      state.params, config, batch, heads_weight)
  updates, optimiser = _optimiser(steps).update(
      gradient, state.optimiser, state.params)
  params = optax.apply_updates(state.params, updates)
  return State(params, optimiser, state.step + 1), jnp.stack(losses)


def fit(
    config: towers.ClipConfig,
    state: State,
    pool: Pool,
    *,
    steps: int,
    batch_size: int,
    seed: int,
    on_step: Callable[[State, Float[Array, "2"]], None],
) -> State:
  """Runs the steps that are left; `on_step` sees every state."""
  for step in range(int(state.step), steps):
    batch = draw_batch(pool, batch_size, seed, step)
    state, losses = update(config, state, batch, steps=steps)
    on_step(state, losses)
  return state


@functools.partial(jax.jit, static_argnames="config")
def _whole_image_features(config, params, images):
  window = jnp.array([0., 0., scenes.SIDE, scenes.SIDE])
  windows = jnp.broadcast_to(window, (len(images), 4))
  return towers.image_features(config, params, _pixels(config, images, windows))


@precision.highest
def zero_shot_logits(
    config: towers.ClipConfig,
    params: towers.Params,
    class_names: tuple[str, ...],
    images: UInt8[np.ndarray, "n 64 64 3"],
) -> Float[Array, "n k"]:
  """Scaled similarities of images to "a photo of a {}." per class."""
  sentences = [f"a photo of a {name}." for name in class_names]
  token_ids = tokenizer.encode_all(sentences, _VOCABULARY, _CAPTION_LENGTH)
  texts = _text_features(config, params, token_ids)
  features = jnp.concatenate([
      _whole_image_features(config, params, part)
      for part in np.array_split(images, -(-len(images) // 500))])
  return jnp.exp(params["logit_scale"]) * features @ texts.T


def validation_images(
    num_images: int,
) -> dict[str, tuple[tuple[str, ...], np.ndarray, np.ndarray]]:
  """Class names, labels and images of each base set's validation split."""
  loaded = {}
  for name in sets.BASES:
    part = sets.load(name, split="validation", limit=num_images)
    images = np.stack([part.read(i) for i in range(len(part.ids))])
    loaded[name] = (part.class_names, part.labels, images)
  return loaded


def zero_shot_accuracy(
    config: towers.ClipConfig, params: towers.Params, loaded: dict
) -> dict[str, float]:
  """Accuracy in [0, 1] on each of `validation_images`."""
  table = {}
  for name, (class_names, labels, images) in loaded.items():
    logits = zero_shot_logits(config, params, class_names, images)
    table[name] = float((logits.argmax(axis=-1) == labels).mean())
  return table


def fit_logit_scale(
    config: towers.ClipConfig, params: towers.Params, loaded: dict
) -> towers.Params:
  """Parameters whose confidences suit `validation_images` best.

  The learned scale suits training scenes, and the image sets are harder. The
  new one, a temperature, has the least negative log-likelihood, averaged over
  the sets; no prediction changes.
  """
  cosines = {**params, "logit_scale": jnp.zeros(())}
  parts = [
      (zero_shot_logits(config, cosines, class_names, images), labels)
      for class_names, labels, images in loaded.values()]
  scale = best_scale(parts)
  return {**params, "logit_scale": jnp.log(jnp.float32(scale))}


def best_scale(
    parts: Sequence[tuple[Float[AnyArray, "_ _"], Int[np.ndarray, "_"]]]
) -> float:
  """The factor on cosines [n k] with the least mean cross entropy of labels.

  Every part counts the same, whatever its size. It is one of 300
  scales between 5 and 100, one per cent apart.
  """
  scales = np.geomspace(5, 100, 300)
  losses = [
      np.mean([
          optax.softmax_cross_entropy_with_integer_labels(
              scale * cosines, labels).mean()
          for cosines, labels in parts])
      for scale in scales]
  return float(scales[np.argmin(losses)])


def save_checkpoint(state: State, path: pathlib.Path) -> None:
  """Writes a state; a run that dies meanwhile leaves the older file."""
  scratch = path.with_suffix(".partial")
  scratch.write_bytes(serialization.to_bytes(jax.device_get(state)))
  scratch.replace(path)


def load_checkpoint(
    config: towers.ClipConfig, seed: int, path: pathlib.Path) -> State:
  """The state in a file written by `save_checkpoint`.

  Raises:
    FileNotFoundError: If there is no such file.
  """
  content = path.read_bytes()
  state = serialization.from_bytes(init(config, seed), content)
  return jax.tree.map(jnp.asarray, state)


def run(
    output: pathlib.Path, *, steps: int, seed: int, check_every: int = 500
) -> None:
  """Trains the shipped model, or goes on from `output/checkpoint.msgpack`.

  Writes a checkpoint and logs the validation accuracies every `check_every`
  steps, and the model folder `output/weights` at the end.
  """
  output.mkdir(parents=True, exist_ok=True)
  checkpoint = output / "checkpoint.msgpack"
  state = (load_checkpoint(MODEL, seed, checkpoint) if checkpoint.exists()
           else init(MODEL, seed))
  logging.info("Drawing %d scenes.", POOL_SIZE)
  pool = draw_pool(POOL_SIZE, seed)
  loaded = validation_images(960)
  start, first = time.monotonic(), int(state.step)
  logging.info("Training from step %d to %d.", first, steps)

  def on_step(state, losses):
    step = int(state.step)
    if step % 100 == 0 or step == first + 1:
      scale = float(jnp.exp(state.params["clip"]["logit_scale"]))
      logging.info(
          "step %d  loss %.3f  heads %.3f  logit scale %.1f  %.0f s", step,
          *map(float, losses), scale, time.monotonic() - start)
    if step % check_every == 0 or step == steps:
      save_checkpoint(state, checkpoint)
      table = zero_shot_accuracy(MODEL, state.params["clip"], loaded)
      logging.info("step %d  validation %s", step, "  ".join(
          f"{name} {100 * value:.1f}" for name, value in table.items()))

  state = fit(MODEL, state, pool, steps=steps, batch_size=BATCH_SIZE,
              seed=seed, on_step=on_step)
  learned = state.params["clip"]
  params = fit_logit_scale(MODEL, learned, loaded)
  export.write_folder(MODEL, params, output / "weights", record={
      "steps": steps, "batch_size": BATCH_SIZE, "pool_size": POOL_SIZE,
      "seed": seed, "steps_in_this_process": steps - first,
      "seconds_in_this_process": round(time.monotonic() - start),
      "validation_accuracy": zero_shot_accuracy(MODEL, params, loaded),
      "logit_scale_learned": float(jnp.exp(learned["logit_scale"])),
      "logit_scale_rule": (
          "The scale with the least negative log-likelihood on the validation "
          "splits of the four base sets, instead of the learned one."),
  })


def main(argv: Sequence[str]) -> None:
  """Trains with the settings of the flags."""
  del argv
  run(pathlib.Path(_OUTPUT.value), steps=_STEPS.value, seed=_SEED.value)


if __name__ == "__main__":
  _OUTPUT = flags.DEFINE_string(
      "output", None, "Folder for checkpoints and weights.", required=True)
  _STEPS = flags.DEFINE_integer("steps", STEPS, "Length of the run.")
  _SEED = flags.DEFINE_integer("seed", 0, "Seed of every random choice.")
  app.run(main)
