"""A tiny CLIP and the few-shot numbers that were computed with it in float64.

The folder's README says what every key is.
"""

from collections.abc import Mapping
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.clip import checkpoint
from jaxcal.clip import prefix
from jaxcal.clip import prompts as prompts_lib
from jaxcal.clip import towers
from jaxcal.tuning import method as method_lib
from tests import shared

# Of the stored steps.
LEARNING_RATE = 0.002


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
    zero_shot = jnp.asarray(self.stored[f"zs/text_raw/words4/{group}"])
    embeddings = jnp.asarray(self.stored[f"zs/text_raw/{template}/{group}"])
    return method_lib.Prompts(
        encode, towers.normalize(zero_shot), towers.normalize(embeddings),
        embeddings)

  def context(self, ids: str, num_context: int) -> jax.Array:
    """Vectors of the words that the context overwrites, [m w]."""
    return prompts_lib.initial_context(
        self.params, self.bank(ids, "base", num_context=num_context))

  def batch(
      self, rows: np.ndarray | slice = slice(None),
      outliers: method_lib.Prompts | None = None,
  ) -> method_lib.Batch:
    """Some of the 8 images."""
    return method_lib.Batch(
        jax.tree.map(lambda x: x[rows], self.images), self.labels[rows],
        outliers)


@functools.cache
def _stored():
  folder = shared.folder("oracles/few_shot")
  with np.load(folder / "fewshot_oracle.npz", allow_pickle=False) as file:
    stored = dict(file)
  return stored, checkpoint.load(folder / "hf_clip_tiny")


def load() -> Oracle:
  """The model and the numbers; skips the test where they are absent."""
  stored, model = _stored()
  params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), model.params)
  pixels = jnp.asarray(stored["images"].transpose(0, 2, 3, 1), jnp.float64)
  images = method_lib.Images(
      features=jnp.asarray(stored["zs/image_features"]),
      embeddings=jnp.asarray(stored["zs/image_features_raw"]),
      pooled=towers.pooled_image(model.config, params, pixels),
      pixels=pixels)
  return Oracle(
      stored, model.config, params, images, jnp.asarray(stored["labels"]),
      jnp.asarray(stored["zs/logit_scale_exp"]))
