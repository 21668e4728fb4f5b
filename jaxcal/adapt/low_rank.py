"""Low-rank changes of the image tower, tuned for each image on its own."""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxcal import precision
from jaxcal import pytrees
from jaxcal.adapt import base
from jaxcal.adapt import numbers as numbers_lib
from jaxcal.clip import last_blocks
from jaxcal.compiled import compiled_with
from jaxcal.losses import entropy
from jaxcal.typing import Array
from jaxcal.typing import Float
from jaxcal.typing import Int
from jaxcal.typing import Key
from jaxcal.typing import Number

# Of the attention of a block, what is changed.
_CHANGED = ("q_proj", "v_proj")


class Factors(NamedTuple):
  """A change of one kernel by the product of two factors of r columns."""

  down: Float[Array, "w r"]  # A
  up: Float[Array, "r w"]  # B


# Of each block, by the name of what is changed.
Change = tuple[dict[str, Factors], ...]


@pytrees.register_dataclass
@dataclasses.dataclass(frozen=True)
class Ttl:
  r"""Test-time low-rank adaptation: LoRA in the last image blocks (TTL).

  Minimises the entropies of all views, those of confident ones weighted more,

  .. math:: \frac{1}{V} \sum_j \mathrm{sg}\left(e^{m - H(p_j)}\right) H(p_j)

  over changes s A B of the kernels that make queries and values, by AdamW from
  B = 0 and a random A; and predicts the clean view by the changed tower. Text
  features stay as they are. In the first step B alone has a gradient; A decays.

  It sees the images by what enters these blocks, so that features alone, in a
  store or in arrays, do not do. One image is adapted after the other, as many
  of its views at a time as the budget of memory allows.

  Attributes:
    learning_rate: Step size of AdamW.
    weight_decay: Decay of AdamW.
    margin: Entropy m, in nats, at which the weight of a view is one.
    alpha: Size of a change, which is s = alpha / rank times the product.
    seed: Seed of the random A, which is the same for all images.
    num_steps: Number of steps.
    rank: Rank of each change.
    num_blocks: Number of blocks, the last ones.

  Source: Imam et al., Test-Time Low Rank Adaptation via Confidence Maximization
  for Zero-Shot Generalization of Vision-Language Models, WACV 2025
  (Razaimam45/TTL-Test-Time-Low-Rank-Adaptation @cc754df), in the form of the
  benchmark TomSheng21/tta-vlm @bcc735f.
  Differs from the released code in: the random A, which PyTorch draws otherwise
  from Xavier's normal distribution.
  """

  learning_rate: Number = 5e-3
  weight_decay: Number = 1e-2
  margin: Number = 0.4
  alpha: Number = 32.0
  seed: int | Int[Array, ""] = 0
  num_steps: int = dataclasses.field(default=1, metadata={"static": True})
  rank: int = dataclasses.field(default=16, metadata={"static": True})
  num_blocks: int = dataclasses.field(default=3, metadata={"static": True})

  @property
  def image_blocks(self) -> int:
    """See `base.image_blocks`."""
    return self.num_blocks

  def method(self) -> base.TestTimeMethod:
    """Scores are logits; info has the loss before the first step.

    Raises:
      ValueError: A rank or number of blocks that is no positive integer, or a
        number of steps that is none from 0 on.
    """
    numbers_lib.refuse_no_counts(self, "rank", "num_blocks")
    numbers_lib.refuse_no_counts(self, "num_steps", least=0)
    return base.episodic(_step, self)


@compiled_with("rank")
def initial(
    key: Key[Array, ""], blocks: last_blocks.LastBlocks, rank: int) -> Change:
  """Changes of nothing: Xavier normal A and zero B, for each kernel.

  Args:
    key: Random key.
    blocks: Blocks that are changed.
    rank: Rank of each change.
  """
  width = blocks.width
  dtype = jnp.promote_types(blocks.projection.kernel.dtype, jnp.float32)
  std = math.sqrt(2 / (width + rank))
  # Drawn alike in 64-bit mode, which would draw other numbers.
  normal = std * jax.random.normal(
      key, (len(blocks.blocks), len(_CHANGED), width, rank), jnp.float32)
  return tuple(
      {name: Factors(one.astype(dtype), jnp.zeros((rank, width), dtype))
       for name, one in zip(_CHANGED, of_block)}
      for of_block in normal)


def changed(
    blocks: last_blocks.LastBlocks, change: Change, scale: Number
) -> last_blocks.LastBlocks:
  """The blocks with changed kernels; those before the changed ones as they are.

  Args:
    blocks: Blocks as they are.
    change: Changes of the last of them.
    scale: Factor of the products.
  """
  kept = len(blocks.blocks) - len(change)
  return dataclasses.replace(blocks, blocks=blocks.blocks[:kept] + tuple(
      _changed_block(block, factors, scale)
      for block, factors in zip(blocks.blocks[kept:], change)))


def loss(
    numbers: Ttl,
    task: base.Task,
    states: Float[Array, "v t w"],
    change: Change,
) -> tuple[Float[Array, ""], Change]:
  """What is minimised, and its gradient; in parts, so that views fit.

  Args:
    numbers: Numbers of the method.
    task: Task with the last blocks of the image tower.
    states: States of all views that enter them.
    change: Changes of the blocks.
  """
  blocks = _blocks(task)
  num_views = len(states)
  number = math.ceil(num_views / (blocks.views_at_once or num_views))
  size = math.ceil(num_views / number)
  filled = jnp.arange(number * size)
  counts = (filled < num_views).reshape(number, size)
  parts = states[jnp.minimum(filled, num_views - 1)].reshape(
      number, size, *states.shape[1:])

  def of_part(change, states, counts):
    features = changed(blocks, change, numbers.alpha / numbers.rank)(states)
    of_views = entropy.confidence_weighted_entropy(
        base.logits(task, features), numbers.margin)
    return jnp.sum(of_views, where=counts) / num_views

  def add(total, part):
    of_this = jax.value_and_grad(of_part)(change, *part)
    return jax.tree.map(jnp.add, total, of_this), None

  zeros = jax.tree.map(
      jnp.zeros_like, jax.eval_shape(
          jax.value_and_grad(of_part), change, parts[0], counts[0]))
  return jax.lax.scan(add, zeros, (parts, counts))[0]


def tuned(
    numbers: Ttl,
    task: base.Task,
    states: Float[Array, "v t w"],
    change: Change,
) -> tuple[Change, Float[Array, ""]]:
  """The changes after all steps, and the loss before them.

  Arguments as in `loss`.
  """
  optimiser = optax.adamw(
      numbers.learning_rate, weight_decay=numbers.weight_decay)
  state, before = optimiser.init(change), None
  for _ in range(numbers.num_steps):
    value, gradient = loss(numbers, task, states, change)
    before = value if before is None else before
    updates, state = optimiser.update(gradient, state, change)
    change = optax.apply_updates(change, updates)
  if before is None:
    before, _ = loss(numbers, task, states, change)
  return change, before


@precision.highest
def _step(numbers: Ttl, task: base.Task, seen: base.Seen):
  # A batch of images would hold the activations of them all.
  one_by_one = jax.custom_batching.sequential_vmap(_adapted)
  logits, before = one_by_one(
      numbers, task._replace(encode=None, context=None), seen.states)
  return base.from_logits(logits, {"loss_before": before})


def _adapted(numbers, task, states):
  blocks = _blocks(task)
  change, before = tuned(numbers, task, states, initial(
      jax.random.key(numbers.seed),
      dataclasses.replace(blocks, blocks=blocks.blocks[-numbers.num_blocks:]),
      numbers.rank))
  features = changed(blocks, change, numbers.alpha / numbers.rank)(states[:1])
  return base.logits(task, features[0]), before


def _changed_block(block, factors, scale):
  attention = dict(block["self_attn"])
  for name, one in factors.items():
    kernel = attention[name]["kernel"]
    change = scale * one.down @ one.up
    attention[name] = {
        **attention[name],
        "kernel": (kernel.astype(change.dtype) + change).astype(kernel.dtype)}
  return {**block, "self_attn": attention}


def _blocks(task: base.Task) -> last_blocks.LastBlocks:
  if task.image_blocks is None:
    raise ValueError(
        "Ttl adapts the image tower, but the task has none; "
        "jaxcal.predict(methods, task, image_set, model=model) gives it one")
  return task.image_blocks
