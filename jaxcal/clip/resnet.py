"""OpenAI's residual networks: where their image tower is not a transformer.

Three convolutions come first, strides are average pools before convolutions of
one pixel, batch norms keep the statistics of their training, and an attention
layer pools the last map, its query being the mean of it. The projection into
the joint space is the last map of that layer and has a bias; texts are those of
CLIP. Parameter names are OpenAI's, in the style of our tree of CLIP.

Radford et al., Learning Transferable Visual Models From Natural Language
Supervision, ICML 2021.
"""

from collections.abc import Mapping
import dataclasses
import re

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcal import precision as precision_lib
from jaxcal.clip import towers
from jaxcal.typing import AnyArray
from jaxcal.typing import at_least_float32
from jaxcal.typing import Float
from jaxcal.typing import Pooled

# Pixels per position of the last map, in both directions.
STRIDE = 32
_EXPANSION = 4  # outputs of a block, in units of its width
_EPSILON = 1e-5

# Parts of names in PyTorch, and ours.
_RENAMED = (
    (r"^visual\.(?=conv|bn)", "vision_model.stem."),
    (r"^visual\.", "vision_model."),
    (r"\.bn(\d)\.", r".batch_norm\1."),
    (r"\.downsample\.0\.", ".downsample_conv."),
    (r"\.downsample\.1\.", ".downsample_norm."),
    (r"\.running_(mean|var)$", r".\1"),
    (r"\.attnpool\.positional_embedding$",
     ".attnpool.position_embedding.weight"),
)
# How many batches the statistics are of; nothing depends on it.
_COUNTER = ".num_batches_tracked"


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
  """One residual network, and how it computes.

  Attributes:
    width: Width of the first map; the last one is `STRIDE` times as wide.
    layers: Numbers of blocks of the four stages.
    heads: Heads of the attention pool.
    precision: See `towers.TowerConfig`.
  """

  width: int
  layers: tuple[int, ...]
  heads: int
  precision: str = dataclasses.field(
      default="highest", kw_only=True, repr=False)

  def __post_init__(self):
    precision_lib.check(self.precision)
    if len(self.layers) != 4 or not all(
        type(count) is int and count > 0 for count in self.layers):
      raise ValueError("four numbers of blocks, all at least 1, expected of a "
                       f"residual network, but {self.layers=}")
    if self.width < 2 or self.width % 2:
      raise ValueError("an even width expected of a residual network, but "
                       f"{self.width=}")
    if self.heads < 1 or self.last_width % self.heads:
      raise ValueError(f"a last map of width {self.last_width} does not split "
                       f"into {self.heads} heads")

  @property
  def last_width(self) -> int:
    """Width of the last map, and of what the projection sees."""
    return 8 * _EXPANSION * self.width


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNetClipConfig(towers.ClipConfig):
  """A `towers.ClipConfig` with a residual network in place of a transformer.

  What a patch is to the transformer is a position of the last map here.
  """

  vision: ResNetConfig  # type: ignore[assignment]
  patch_size: int = dataclasses.field(default=STRIDE, init=False)

  image_projection = ("vision_model", "attnpool", "c_proj")
  image_bias = True
  takes_image_prompts = False

  def __post_init__(self):
    if self.image_size < 1 or self.image_size % STRIDE:
      raise ValueError(
          f"a residual network takes images of a multiple of {STRIDE} pixels, "
          f"but {self.image_size=}")

  @property
  def pooled_sizes(self) -> tuple[int, int]:
    return self.vision.last_width, 0

  def image_tower(self) -> nn.Module:
    return VisionTower(self.vision)


def _convolution(width, side, name, stride=1):
  return nn.Conv(
      width, (side, side), strides=stride, padding=side // 2, use_bias=False,
      kernel_init=nn.initializers.he_normal(), name=name)


def average_pool(
    x: Float[AnyArray, "n h w c"], side: int) -> Float[AnyArray, "n i j c"]:
  """Means of the squares that a map splits into."""
  n, height, width, channels = x.shape
  return x.reshape(n, height // side, side, width // side, side,
                   channels).mean((2, 4))


class FrozenBatchNorm(nn.Module):
  """Batch norm by the statistics of the training, never below float32."""

  @nn.compact
  def __call__(self, x):
    parameter = lambda name, init: at_least_float32(
        self.param(name, init, x.shape[-1:])).reshape(1, 1, 1, -1)
    zeros, ones = nn.initializers.zeros, nn.initializers.ones
    scale, bias = parameter("scale", ones), parameter("bias", zeros)
    mean, variance = parameter("mean", zeros), parameter("var", ones)
    normed = (x - mean) * (scale / jnp.sqrt(variance + _EPSILON)) + bias
    return normed.astype(x.dtype)


class Stem(nn.Module):
  """Three convolutions, and a quarter of the image's side is left."""

  width: int

  @nn.compact
  def __call__(self, x):
    for number, width, stride in (
        (1, self.width // 2, 2), (2, self.width // 2, 1), (3, self.width, 1)):
      x = _convolution(width, 3, f"conv{number}", stride)(x)
      x = nn.relu(FrozenBatchNorm(name=f"batch_norm{number}")(x))
    return average_pool(x, 2)


class Bottleneck(nn.Module):
  """One block; where it strides, both of its ways are pooled before they do."""

  width: int
  stride: int = 1

  @nn.compact
  def __call__(self, x):
    out = _EXPANSION * self.width
    y = x
    for number, side in ((1, 1), (2, 3)):
      y = _convolution(self.width, side, f"conv{number}")(y)
      y = nn.relu(FrozenBatchNorm(name=f"batch_norm{number}")(y))
    y = _convolution(out, 1, "conv3")(average_pool(y, self.stride))
    y = FrozenBatchNorm(name="batch_norm3")(y)
    if self.stride > 1 or x.shape[-1] != out:
      x = _convolution(out, 1, "downsample_conv")(average_pool(x, self.stride))
      x = FrozenBatchNorm(name="downsample_norm")(x)
    return nn.relu(y + x)


class Stage(nn.Module):
  """Blocks of one width, named by their numbers; the first one may stride."""

  width: int
  blocks: int
  stride: int

  @nn.compact
  def __call__(self, x):
    for block in range(self.blocks):
      x = Bottleneck(
          self.width, 1 if block else self.stride, name=str(block))(x)
    return x


class AttentionPool(nn.Module):
  """The mean of a map looks at all its positions; all but the last map."""

  config: ResNetConfig

  @nn.compact
  def __call__(self, x):
    width = x.shape[-1]
    tokens = x.reshape(len(x), -1, width)
    tokens = jnp.concatenate([tokens.mean(1, keepdims=True), tokens], axis=1)
    init = nn.initializers.normal(width**-0.5)
    positions = nn.Embed(
        tokens.shape[1], width, name="position_embedding", embedding_init=init)
    tokens = tokens + positions(jnp.arange(tokens.shape[1]))[None]
    dense = lambda name: nn.Dense(width, kernel_init=init, name=name)
    mixed = towers.attend(
        dense("q_proj")(tokens[:, :1]), dense("k_proj")(tokens),
        dense("v_proj")(tokens), self.config.heads)
    return Pooled(mixed[:, 0])


class VisionTower(nn.Module):
  """Residual network with an attention pool."""

  config: ResNetConfig

  @nn.compact
  def __call__(self, pixels):
    width = self.config.width
    x = Stem(width, name="stem")(pixels)
    for stage, blocks in enumerate(self.config.layers):
      x = Stage(2**stage * width, blocks, 2 if stage else 1,
                name=f"layer{stage + 1}")(x)
    return AttentionPool(self.config, name="attnpool")(x)


def rename(name: str, tensor: np.ndarray) -> Mapping[str, np.ndarray]:
  """A tensor of the image tower under the name that `layout` expects.

  Args:
    name: Name in PyTorch, such as "visual.layer1.0.bn1.running_mean".
    tensor: The tensor.

  Returns:
    None or one of them by name.
  """
  if name.endswith(_COUNTER):
    return {}
  for pattern, new in _RENAMED:
    name = re.sub(pattern, new, name)
  return {name: tensor}
