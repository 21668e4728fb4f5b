"""SigLIP: where its towers, weights and preprocessing are not those of CLIP.

Images have no class token; an attention layer with one learned query pools
them. Texts are seen in both directions and read off at the last position. Both
projections have a bias, and so have the logits. Parameter names are those of
Hugging Face's PyTorch SigLIP, in the style of our tree of CLIP.

Zhai et al., Sigmoid Loss for Language Image Pre-Training, ICCV 2023.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.clip import layout
from jaxcal.clip import preprocess
from jaxcal.clip import towers
from jaxcal.typing import Pooled
from jaxcal.typing import PyTree

_FUSED = "vision_model.head.attention.in_proj_"
_LOGITS = ("logit_scale", "logit_bias")


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, kw_only=True)
class SiglipConfig(towers.ClipConfig):
  """A `towers.ClipConfig` of SigLIP; the functions of `towers` take either.

  The joint space is as wide as the image tower. Pixels to the right of and
  below the last whole patch are not seen, so the image size need not be a
  multiple of the patch size. There is no token at which texts end: they are
  read off at the last position, padding included.
  """

  eos_token_id: None = None  # type: ignore[assignment]
  causal: bool = False

  image_projection = ("vision_model", "head", "mlp", "fc2")
  text_projection = ("text_model", "head")
  image_bias = True
  text_bias = True
  takes_image_prompts = False
  initial_logits = {"logit_scale": math.log(10), "logit_bias": -10.0}

  def __post_init__(self):
    if self.projection != self.vision.width:
      raise ValueError(
          f"the text tower projects to {self.projection} dimensions, but "
          f"images have {self.vision.width}, the width of their tower")
    if self.image_size < self.patch_size:
      raise ValueError(f"an image of {self.image_size} pixels does not hold a "
                       f"patch of {self.patch_size}")

  @property
  def pooled_sizes(self) -> tuple[int, int]:
    return self.vision.mlp_width, self.projection

  def image_tower(self) -> nn.Module:
    return VisionTower(self)

  def image_end(self) -> nn.Module:
    return VisionEnd(self)


class VisionEmbeddings(nn.Module):
  """Patches and their positions."""

  config: SiglipConfig

  @nn.compact
  def __call__(self, pixels):
    patches = towers.PatchEmbedding(
        self.config, use_bias=True, name="patch_embedding")(pixels)
    count, width = patches.shape[1:]
    positions = nn.Embed(
        count, width, name="position_embedding",
        embedding_init=nn.initializers.normal(width**-0.5))
    return patches + positions(jnp.arange(count))[None]


class Hidden(nn.Module):
  """The first half of an MLP; its second half is the projection."""

  config: towers.TowerConfig

  @nn.compact
  def __call__(self, x):
    x = nn.Dense(self.config.mlp_width, name="fc1")(x)
    return towers.ACTIVATIONS[self.config.activation](x)


class AttentionPool(nn.Module):
  """One learned query looks at all tokens; an MLP, all but its last map."""

  config: towers.TowerConfig

  @nn.compact
  def __call__(self, tokens):
    width = self.config.width
    query = self.param(
        "probe", nn.initializers.normal(width**-0.5), (1, 1, width))
    query = jnp.broadcast_to(query, (len(tokens), 1, width))
    attention = towers.Attention(self.config, name="attention")
    residual = attention(query, source=tokens)[:, 0]
    normed = towers.layer_norm(self.config.layer_norm_eps, "layernorm")(
        residual)
    return Pooled(Hidden(self.config, name="mlp")(normed), residual)


class VisionTower(nn.Module):
  """Vision transformer with an attention pool."""

  config: SiglipConfig

  @nn.compact
  def __call__(self, pixels):
    vision = self.config.vision
    x = VisionEmbeddings(self.config, name="embeddings")(pixels)
    x = towers.Encoder(vision, name="encoder")(x)
    return _pooled(vision, x)


class VisionEnd(nn.Module):
  """What comes behind the blocks of `VisionTower`, by the same parameters."""

  config: SiglipConfig

  @nn.compact
  def __call__(self, x):
    return _pooled(self.config.vision, x)


def _pooled(config, x):
  """Images read off by the attention pool; within a module."""
  x = towers.layer_norm(config.layer_norm_eps, "post_layernorm")(x)
  return AttentionPool(config, name="head")(x)


def from_torch_names(tensors: Mapping[str, np.ndarray]) -> PyTree:
  """Tensors under the names of Hugging Face's PyTorch SigLIP, as our tree.

  The fused input projection of the pool becomes three, and the scale and the
  bias of the logits, stored as vectors of one, become scalars. Names that are
  not SigLIP's come through, so that a check against the model finds them.

  Args:
    tensors: Arrays by name, such as "vision_model.head.probe".

  Returns:
    Nested dictionaries of arrays, in the layout of `towers.init`.
  """
  renamed: dict[str, np.ndarray] = {}
  for name, tensor in tensors.items():
    if name.startswith(_FUSED):
      leaf = name.removeprefix(_FUSED)
      renamed |= {
          f"vision_model.head.attention.{part}_proj.{leaf}": value
          for part, value in zip("qkv", np.array_split(tensor, 3))}
    else:
      one = name in _LOGITS and tensor.shape == (1,)
      renamed[name] = tensor.reshape(()) if one else tensor
  return layout.from_torch_names(renamed)


def preprocessing(
    settings: Mapping[str, Any], image_size: int) -> preprocess.Preprocess:
  """Reads the settings of Hugging Face's SigLIP image processor.

  Images become squares, whatever their shape. Absent keys mean what they mean
  to that processor; the absent size is the model's.

  Args:
    settings: Content of preprocessor_config.json.
    image_size: Side of the images that the model takes.

  Raises:
    ValueError: See `preprocess.from_image_processor`.
  """
  half = (0.5,) * 3
  usual = {"size": {"height": image_size, "width": image_size},
           "do_center_crop": False, "image_mean": half, "image_std": half}
  return preprocess.from_image_processor(usual | dict(settings), image_size)
