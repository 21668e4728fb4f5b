"""The last blocks of an image tower as a function of their own parameters.

For what adapts these blocks to an image: the blocks before them run once, see
`towers.image_states`, and only these again.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

from jaxcal import precision
from jaxcal import pytrees
from jaxcal.clip import towers
from jaxcal.compiled import compiled
from jaxcal.typing import Array
from jaxcal.typing import Float

# What comes before the blocks, or is them.
_BEFORE = ("embeddings", "pre_layrnorm", "encoder")


@pytrees.register_dataclass
@dataclasses.dataclass(frozen=True)
class LastBlocks:
  """From the states that enter the first of the blocks to image features.

  A pytree, so that its parameters are arguments under `jit`.

  Attributes:
    blocks: Parameters of each block.
    end: Parameters of what comes behind them, up to the projection.
    projection: Last linear map.
    config: Sizes of the model.
    views_at_once: Views whose activations are held at a time where gradients
      are taken; all if None.
  """

  blocks: tuple[Mapping[str, Any], ...]
  end: Mapping[str, Any]
  projection: towers.Projection
  config: towers.ClipConfig = dataclasses.field(metadata={"static": True})
  views_at_once: int | None = dataclasses.field(
      default=None, metadata={"static": True})

  @property
  def width(self) -> int:
    """Width of the states."""
    return self.config.vision.width

  @compiled
  def __call__(self, states: Float[Array, "n t w"]) -> Float[Array, "n d"]:
    """Unit-norm features of images or views, in the tower's precision."""
    vision = self.config.vision
    with precision.at(vision.precision):
      x: Any = states
      for block in self.blocks:
        x = towers.Block(vision).apply({"params": block}, x)
      pooled: Any = self.config.image_end().apply({"params": self.end}, x)
    return towers.normalise(towers.project(
        pooled.activations, self.projection, pooled.residual,
        precision=vision.precision))


def of(
    config: towers.ClipConfig,
    params: towers.Params,
    number: int,
    *,
    views_at_once: int | None = None,
) -> LastBlocks:
  """The last blocks of a model's image tower.

  Args:
    config: Sizes of the model.
    params: The whole parameter tree.
    number: Number of blocks.
    views_at_once: See `LastBlocks`.

  Raises:
    ValueError: See `check`.
  """
  check(config, number)
  vision = params["vision_model"]
  layers = vision["encoder"]["layers"]
  return LastBlocks(
      tuple(layers[str(config.vision.layers - number + i)]
            for i in range(number)),
      {name: value for name, value in vision.items() if name not in _BEFORE},
      towers.image_projection(config, params), config, views_at_once)


def check(config: towers.ClipConfig, number: int) -> None:
  """Refuses an image tower that does not have so many blocks.

  Raises:
    ValueError: A residual network, which has none, or too few of them.
  """
  if not isinstance(config.vision, towers.TowerConfig):
    raise ValueError(
        "the last blocks of a vision transformer are adapted, but the image "
        "tower of this model is a residual network; leave the method out, or "
        "take a model with a vision transformer")
  if not 1 <= number <= config.vision.layers:
    raise ValueError(
        f"num_blocks must lie in [1, {config.vision.layers}], the blocks of "
        f"this model's image tower, got {number}")
