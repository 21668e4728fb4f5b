"""The two towers of CLIP as Linen modules, and as pure functions of arrays.

The functions serve every model whose configuration is a `ClipConfig`; those of
SigLIP and of residual networks bring image towers of their own. Parameter names
are those of Hugging Face's Flax CLIP, so that its weights load unrenamed.
Computation follows the dtype of the parameters, and products are as exact as
the tower's `precision` says; softmax and norms never go below float32.

Radford et al., Learning Transferable Visual Models From Natural Language
Supervision, ICML 2021.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp

from jaxcal import precision as precision_lib
from jaxcal.compiled import compiled
from jaxcal.compiled import compiled_with
from jaxcal.typing import AnyArray
from jaxcal.typing import Array
from jaxcal.typing import ArrayLike
from jaxcal.typing import at_least_float32
from jaxcal.typing import Bool
from jaxcal.typing import Float
from jaxcal.typing import Int
from jaxcal.typing import Key
from jaxcal.typing import Pooled

Params = Mapping[str, Any]

# Entries of the parameter tree that one side of the model needs.
IMAGE_PARAMS = ("vision_model", "visual_projection")
TEXT_PARAMS = ("text_model", "text_projection")


class Projection(NamedTuple):
  """The last linear map of a tower, into the joint space."""

  kernel: Float[Array, "p d"]
  bias: Float[Array, "d"] | None = None


class DeepPrompts(NamedTuple):
  """Learned vectors that take the place of states inside a tower.

  Attributes:
    vectors: Vectors, of which vectors[i] enter before layer i + 1. Behind the
      last of them, what became of them flows on.
    positions: Where they enter in each row, distinct.
  """

  vectors: Float[Array, "e n w"]
  positions: Int[Array, "b n"]


@dataclasses.dataclass(frozen=True)
class TowerConfig:
  """One transformer: sizes, activation and layer norm, and how it computes.

  `precision`, one of `jaxcal.precision.PRECISIONS`, holds for the tower with
  its projection, forward and backward. The dtype of the parameters goes with
  it, see `checkpoint.in_precision`. It is no part of what the model is, and so
  not of its `repr`, of which the model's fingerprint is made.
  """

  width: int
  layers: int
  heads: int
  mlp_width: int
  activation: str = "quick_gelu"
  layer_norm_eps: float = 1e-5
  precision: str = dataclasses.field(
      default="highest", kw_only=True, repr=False)

  def __post_init__(self):
    precision_lib.check(self.precision)
    if self.width % self.heads:
      raise ValueError(
          f"a width of {self.width} does not split into {self.heads} heads")
    if self.activation not in ACTIVATIONS:
      raise ValueError(f"unknown activation {self.activation!r}; choose from: "
                       f"{', '.join(sorted(ACTIVATIONS))}.")


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class ClipConfig:
  """Both towers and what joins them; hashable, so static under `jit`.

  As a pytree it has no leaves, so that it may also be an argument under `jit`.

  `eos_token_id` 2 is the legacy value of OpenAI's converted checkpoints and
  means "the end is where the highest token id stands"; see
  `prompts.end_positions`. Where `causal` is false, text tokens see those after
  them, so that prompts must keep all positions (`prompt_bank(crop=False)`).
  """

  text: TowerConfig
  vision: TowerConfig
  vocab_size: int
  context_length: int
  eos_token_id: int | None
  image_size: int
  patch_size: int
  projection: int
  causal: bool = True

  # Where the parameters of the projections lie in the tree.
  image_projection: ClassVar[tuple[str, ...]] = ("visual_projection",)
  text_projection: ClassVar[tuple[str, ...]] = ("text_projection",)
  image_bias: ClassVar[bool] = False
  text_bias: ClassVar[bool] = False
  takes_image_prompts: ClassVar[bool] = True
  initial_logits: ClassVar[Mapping[str, float]] = {
      "logit_scale": math.log(1 / 0.07)}

  def __post_init__(self):
    if self.image_size % self.patch_size:
      raise ValueError(f"an image of {self.image_size} pixels does not split "
                       f"into patches of {self.patch_size}")

  @property
  def pooled_sizes(self) -> tuple[int, int]:
    """Of an image's activations and of its residual, 0 if there is none."""
    return self.vision.width, 0

  def image_tower(self) -> nn.Module:
    """From normalised pixels to `Pooled`."""
    return VisionTower(self)

  def image_end(self) -> nn.Module:
    """From the states behind the last block to `Pooled`."""
    return VisionEnd(self)

  def text_tower(self) -> nn.Module:
    """From token vectors and end positions to activations."""
    return TextTower(self)


def quick_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
  """OpenAI's cheap approximation of GELU."""
  return x * jax.nn.sigmoid(1.702 * x)


def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
  """GELU with the error function, as PyTorch computes it by default."""
  return jax.nn.gelu(x, approximate=False)


def gelu_tanh(x: Float[Array, "..."]) -> Float[Array, "..."]:
  """GELU approximated with the hyperbolic tangent."""
  return jax.nn.gelu(x, approximate=True)


ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": gelu,
               "gelu_pytorch_tanh": gelu_tanh}


def causal_mask(length: int) -> Bool[Array, "t t"]:
  """True where a token (row) may look: at itself and at those before it."""
  return jnp.tril(jnp.ones((length, length), bool))


def layer_norm(epsilon: float, name: str) -> nn.Module:
  """Layer norm over the last axis."""
  # The one-pass variance of Linen's default loses digits that the parity with
  # PyTorch needs.
  return nn.LayerNorm(epsilon=epsilon, use_fast_variance=False, name=name)


def attend(
    query: Float[Array, "b q w"],
    key: Float[Array, "b t w"],
    value: Float[Array, "b t w"],
    heads: int,
    mask: Bool[Array, "..."] | None = None,
) -> Float[Array, "b q w"]:
  """Means of the values, weighted by softmax head by head.

  Args:
    query: Queries, all heads after each other.
    key: Keys, likewise.
    value: Values, likewise.
    heads: Number of heads.
    mask: True where attention is allowed; everywhere if None.
  """
  width = query.shape[-1] // heads
  # Heads before tokens: XLA's batched matmul is fastest when the axes that
  # it does not mix come first (twice as fast on CPU).
  split = lambda a: a.reshape(*a.shape[:-1], heads, width).swapaxes(-2, -3)
  scores = split(query) @ split(key).swapaxes(-1, -2)
  scores = at_least_float32(scores) * width**-0.5
  if mask is not None:
    scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
  weights = jax.nn.softmax(scores, axis=-1).astype(query.dtype)
  return (weights @ split(value)).swapaxes(-2, -3).reshape(query.shape)


class Attention(nn.Module):
  """Multi-head attention to `source`, or to `x` itself if that is None.

  `mask` is True where attention is allowed.
  """

  config: TowerConfig

  @nn.compact
  def __call__(self, x, mask=None, source=None):
    source = x if source is None else source
    width, heads = self.config.width, self.config.heads
    init = nn.initializers.normal(width**-0.5)
    dense = lambda name: nn.Dense(width, kernel_init=init, name=name)
    mixed = attend(dense("q_proj")(x), dense("k_proj")(source),
                   dense("v_proj")(source), heads, mask)
    out = nn.initializers.normal((2 * self.config.layers * width)**-0.5)
    return nn.Dense(width, kernel_init=out, name="out_proj")(mixed)


class Mlp(nn.Module):
  """Two dense layers with the tower's activation in between."""

  config: TowerConfig

  @nn.compact
  def __call__(self, x):
    width = self.config.width
    up = nn.initializers.normal((2 * width)**-0.5)
    down = nn.initializers.normal((2 * self.config.layers * width)**-0.5)
    x = nn.Dense(self.config.mlp_width, kernel_init=up, name="fc1")(x)
    x = ACTIVATIONS[self.config.activation](x)
    return nn.Dense(width, kernel_init=down, name="fc2")(x)


class Block(nn.Module):
  """One pre-norm transformer block."""

  config: TowerConfig

  @nn.compact
  def __call__(self, x, mask=None):
    epsilon = self.config.layer_norm_eps
    normed = layer_norm(epsilon, "layer_norm1")(x)
    x = x + Attention(self.config, name="self_attn")(normed, mask)
    normed = layer_norm(epsilon, "layer_norm2")(x)
    return x + Mlp(self.config, name="mlp")(normed)


class Layers(nn.Module):
  """The stack of blocks, named by their numbers."""

  config: TowerConfig

  @nn.compact
  def __call__(self, x, mask=None, deep=None):
    for layer in range(self.config.layers):
      # Kept only where asked for, see `image_states`.
      self.sow("intermediates", f"entering_{layer}", x)
      if deep is not None and 0 < layer <= len(deep.vectors):
        x = place(x, deep.vectors[layer - 1], deep.positions)
      x = Block(self.config, name=str(layer))(x, mask)
    return x


class Encoder(nn.Module):
  """A level that only the parameter names ask for: encoder/layers/0/..."""

  config: TowerConfig

  @nn.compact
  def __call__(self, x, mask=None, deep=None):
    return Layers(self.config, name="layers")(x, mask, deep)


class TextEmbeddings(nn.Module):
  """Token vectors, and the position vectors added to them."""

  config: ClipConfig

  def setup(self):
    width = self.config.text.width
    self.token_embedding = nn.Embed(
        self.config.vocab_size, width,
        embedding_init=nn.initializers.normal(0.02))
    self.position_embedding = nn.Embed(
        self.config.context_length, width,
        embedding_init=nn.initializers.normal(0.01))

  def __call__(self, embeddings):
    length = embeddings.shape[-2]
    if length > self.config.context_length:
      raise ValueError(f"prompts of {length} tokens, but the text tower has "
                       f"{self.config.context_length} positions")
    positions = self.position_embedding(jnp.arange(length))
    return embeddings + positions[None]

  def tokens(self, token_ids):
    return self.token_embedding(token_ids)


class TextTower(nn.Module):
  """Transformer over token vectors, read off at the end token."""

  config: ClipConfig

  def setup(self):
    text = self.config.text
    self.embeddings = TextEmbeddings(self.config)
    self.encoder = Encoder(text)
    self.final_layer_norm = nn.LayerNorm(
        epsilon=text.layer_norm_eps, use_fast_variance=False)

  def __call__(self, embeddings, end_positions, deep=None):
    length = embeddings.shape[-2]
    x = self.embeddings(embeddings)
    mask = causal_mask(length)[None, None] if self.config.causal else None
    x = self.encoder(x, mask, deep)
    x = x[jnp.arange(len(x)), end_positions]
    return self.final_layer_norm(x)

  def from_tokens(self, token_ids, end_positions):
    return self(self.embeddings.tokens(token_ids), end_positions)


class PatchEmbedding(nn.Module):
  """A convolution whose stride is its kernel size, written as one matmul.

  What is left of the image after the last whole patch is not seen.
  """

  config: ClipConfig
  use_bias: bool = False

  @nn.compact
  def __call__(self, pixels):
    side, width = self.config.patch_size, self.config.vision.width
    init = nn.initializers.normal((3 * side * side)**-0.5)
    kernel = self.param("kernel", init, (side, side, 3, width))
    grid = self.config.image_size // side
    patches = pixels[:, :grid * side, :grid * side]
    patches = patches.reshape(-1, grid, side, grid, side, 3)
    patches = patches.transpose(0, 1, 3, 2, 4, 5)
    patches = patches.reshape(-1, grid * grid, 3 * side * side)
    x = patches @ kernel.reshape(-1, width)
    if self.use_bias:
      bias = self.param("bias", nn.initializers.zeros, (width,))
      x = x + bias[None, None]
    return x


class VisionEmbeddings(nn.Module):
  """Class token, patches and their positions."""

  config: ClipConfig

  @nn.compact
  def __call__(self, pixels):
    width = self.config.vision.width
    patches = PatchEmbedding(self.config, name="patch_embedding")(pixels)
    first = self.param(
        "class_embedding", nn.initializers.normal(width**-0.5), (width,))
    first = jnp.broadcast_to(first, (len(patches), 1, width))
    positions = nn.Embed(
        patches.shape[1] + 1, width, name="position_embedding",
        embedding_init=nn.initializers.normal(0.02))
    x = jnp.concatenate([first, patches], axis=1)
    return x + positions(jnp.arange(x.shape[1]))[None]


class VisionTower(nn.Module):
  """Vision transformer, read off at the class token."""

  config: ClipConfig

  @nn.compact
  def __call__(self, pixels, prompts=None):
    vision = self.config.vision
    x = VisionEmbeddings(self.config, name="embeddings")(pixels)
    deep = None
    if prompts is not None:
      shape = (len(x), *prompts.shape[1:])
      positions = jnp.arange(x.shape[1], x.shape[1] + shape[1])
      deep = DeepPrompts(
          prompts[1:], jnp.broadcast_to(positions[None], shape[:2]))
      first = jnp.broadcast_to(prompts[:1].astype(x.dtype), shape)
      x = jnp.concatenate([x, first], axis=1)
    # The missing letter is the checkpoint's.
    x = layer_norm(vision.layer_norm_eps, "pre_layrnorm")(x)
    x = Encoder(vision, name="encoder")(x, deep=deep)
    return _class_token(vision, x)


class VisionEnd(nn.Module):
  """What comes behind the blocks of `VisionTower`, by the same parameters."""

  config: ClipConfig

  @nn.compact
  def __call__(self, x):
    return _class_token(self.config.vision, x)


def _class_token(config, x):
  """Images read off at their first token; within a module."""
  return Pooled(layer_norm(config.layer_norm_eps, "post_layernorm")(x[:, 0]))


@compiled_with("config")
def init(config: ClipConfig, key: Key[Array, ""]) -> Params:
  """Fresh parameters (float32), in the layout that the module describes."""
  text_key, vision_key, text_out, visual_out = jax.random.split(key, 4)
  side = config.image_size
  text = config.text_tower().init(
      text_key, jnp.zeros((1, 1), int), jnp.zeros((1,), int),
      method="from_tokens")
  vision = config.image_tower().init(
      vision_key, jnp.zeros((1, side, side, 3)))
  flat = traverse_util.flatten_dict(
      {"text_model": text["params"], "vision_model": vision["params"]})
  for key, path, width, biased in (
      (text_out, config.text_projection, config.text.width, config.text_bias),
      (visual_out, config.image_projection, config.pooled_sizes[0],
       config.image_bias)):
    flat[(*path, "kernel")] = (
        jax.random.normal(
            key, (width, config.projection), jnp.float32) * width**-0.5)
    if biased:
      flat[(*path, "bias")] = jnp.zeros(config.projection)
  logits = {k: jnp.asarray(v) for k, v in config.initial_logits.items()}
  return traverse_util.unflatten_dict(flat) | logits


@compiled
def token_embeddings(
    params: Params,
    token_ids: Int[ArrayLike, "*shape"],
) -> Float[Array, "*shape w"]:
  """Vectors of the tokens, before positions are added."""
  embedding = params["text_model"]["embeddings"]["token_embedding"]["embedding"]
  return jnp.asarray(embedding)[token_ids]


def place(
    x: Float[Array, "b t w"],
    vectors: Float[Array, "n w"] | Float[Array, "b n w"],
    positions: Int[Array, "b n"],
) -> Float[Array, "b t w"]:
  """States with vectors in their places.

  Args:
    x: All states.
    vectors: Vectors shared by the rows, or [b n w] with their own for each.
    positions: Positions of the vectors, distinct in each row.
  """
  vectors = jnp.broadcast_to(vectors, (*positions.shape, x.shape[-1]))
  return x.at[jnp.arange(len(x))[:, None], positions].set(
      vectors.astype(x.dtype), unique_indices=True)


def check_deep_prompts(
    vectors: Float[Array, "e n w"], config: TowerConfig, room: int) -> None:
  """Raises ValueError unless vectors fit a tower and its positions.

  Args:
    vectors: See `DeepPrompts`.
    config: The tower; has no layer after its last one for vectors to enter.
    room: How many positions there are for them.
  """
  fits = vectors.ndim == 3 and vectors.shape[-1] == config.width
  if not fits or len(vectors) >= config.layers or vectors.shape[1] > room:
    raise ValueError(
        f"deep prompts of shape [e, n, {config.width}] expected, with e up to "
        f"{config.layers - 1} and n up to {room}, but {vectors.shape=}")


def check_image_prompts(config: ClipConfig) -> None:
  """Raises ValueError unless the image tower takes prompts."""
  if not config.takes_image_prompts:
    raise ValueError("prompts of images need CLIP's vision transformer, but "
                     "the image tower of this model is another one and takes "
                     "no prompts")


@compiled_with("config")
def pooled_text(
    config: ClipConfig,
    params: Params,
    embeddings: Float[Array, "k t w"],
    end_positions: Int[AnyArray, "k"],
    deep: DeepPrompts | None = None,
) -> Float[Array, "k w"]:
  """Activations of prompts: final norm, row of the end token.

  Args:
    config: Sizes of the model.
    params: The whole parameter tree.
    embeddings: Token vectors without positions. Nothing after the end token
      matters, in a causal tower.
    end_positions: Index of each prompt's end token.
    deep: Vectors that take the place of states between layers, if any.

  Raises:
    ValueError: More tokens than the tower has positions, another width, or deep
      prompts that do not fit.
  """
  if embeddings.ndim != 3 or embeddings.shape[-1] != config.text.width:
    raise ValueError(
        f"token vectors of shape [k, t, {config.text.width}] expected, but "
        f"{embeddings.shape=}")
  if deep is not None:
    check_deep_prompts(deep.vectors, config.text, embeddings.shape[1])
  with precision_lib.at(config.text.precision):
    return config.text_tower().apply(  # type: ignore[return-value]
        {"params": params["text_model"]}, embeddings, end_positions, deep)


@compiled_with("config")
def text_features(
    config: ClipConfig,
    params: Params,
    embeddings: Float[Array, "k t w"],
    end_positions: Int[AnyArray, "k"],
) -> Float[Array, "k d"]:
  """Unit-norm text features of prompts; arguments as in `pooled_text`."""
  activations = pooled_text(config, params, embeddings, end_positions)
  return normalise(project(activations, text_projection(config, params),
                           precision=config.text.precision))


@compiled_with("config")
def pooled_image(
    config: ClipConfig,
    params: Params,
    pixels: Float[AnyArray, "n s s 3"],
    prompts: Float[Array, "e m w"] | None = None,
) -> Pooled:
  """What the last linear map sees of images, from normalised pixels.

  Args:
    config: Sizes of the model.
    params: The whole parameter tree.
    pixels: The images.
    prompts: Learned tokens, if any. prompts[0] come after the patches, without
      positions; prompts[i] take their place before layer i.

  Raises:
    ValueError: Images of another size than the model's, or prompts that do not
      fit the tower or that it does not take.
  """
  _check_pixels(config, pixels)
  vision = config.vision
  inputs = [pixels]
  if prompts is not None:
    check_image_prompts(config)
    if (prompts.ndim != 3 or prompts.shape[-1] != vision.width
        or not 0 < len(prompts) <= vision.layers):
      raise ValueError(
          f"prompts of shape [e, n, {vision.width}] expected, with e from 1 to "
          f"{vision.layers}, but {prompts.shape=}")
    inputs.append(prompts)
  with precision_lib.at(vision.precision):
    return config.image_tower().apply(  # type: ignore[return-value]
        {"params": params["vision_model"]}, *inputs)


@compiled_with("config", "block")
def image_states(
    config: ClipConfig,
    params: Params,
    pixels: Float[AnyArray, "n s s 3"],
    block: int,
) -> tuple[Pooled, Float[Array, "n t w"]]:
  """`pooled_image`, and the states of all tokens that enter a block.

  Args:
    config: Sizes of the model.
    params: The whole parameter tree.
    pixels: The images, normalised.
    block: Number of the block, from 0; see `last_blocks.check`.
  """
  _check_pixels(config, pixels)
  with precision_lib.at(config.vision.precision):
    pooled, sown = config.image_tower().apply(
        {"params": params["vision_model"]}, pixels, mutable=["intermediates"])
  states, = sown["intermediates"]["encoder"]["layers"][f"entering_{block}"]
  return pooled, states


def _check_pixels(config, pixels):
  side = config.image_size
  if pixels.ndim != 4 or pixels.shape[1:] != (side, side, 3):
    raise ValueError(f"pixels of shape [n, {side}, {side}, 3] expected, but "
                     f"{pixels.shape=}")


@compiled_with("config")
def image_features(
    config: ClipConfig,
    params: Params,
    pixels: Float[AnyArray, "n s s 3"],
    prompts: Float[Array, "e m w"] | None = None,
) -> Float[Array, "n d"]:
  """Unit-norm image features; arguments as in `pooled_image`."""
  activations, residual = pooled_image(config, params, pixels, prompts)
  projection = image_projection(config, params)
  return normalise(project(activations, projection, residual,
                           precision=config.vision.precision))


def image_projection(config: ClipConfig, params: Params) -> Projection:
  """The last linear map of the image tower; what it acts on is `Pooled`."""
  return _projection(params, config.image_projection)


def text_projection(config: ClipConfig, params: Params) -> Projection:
  """The last linear map of the text tower; acts on `pooled_text`."""
  return _projection(params, config.text_projection)


@compiled_with("precision")
def project(
    activations: Float[AnyArray, "*n p"],
    projection: Projection,
    residual: Float[AnyArray, "*n d"] | None = None,
    *,
    precision: str = "highest",
) -> Float[Array, "*n d"]:
  """Embeddings in the joint space, not normalised.

  Args:
    activations: What the projection sees.
    projection: The last linear map of a tower.
    residual: Residual added to what it gives.
    precision: One of `jaxcal.precision.PRECISIONS`; where the map is part of a
      tower's own pass, the tower's.
  """
  with precision_lib.at(precision):
    x = jnp.asarray(activations) @ projection.kernel
  if projection.bias is not None:
    x = x + projection.bias.reshape((1,) * (x.ndim - 1) + (-1,))
  return x if residual is None else x + residual


def _projection(params, path):
  for name in path:
    params = params[name]
  return Projection(jnp.asarray(params["kernel"]), params.get("bias"))


@compiled
def normalise(x: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
  """Vectors scaled to unit Euclidean length."""
  x = at_least_float32(x)
  return x / jnp.linalg.norm(x, axis=-1, keepdims=True)
