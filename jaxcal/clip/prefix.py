"""Text features of all classes with what their prompts share computed once.

In a causal tower a token depends on those before it alone. So the tokens that
all prompts have in common at their beginning (the start token and the context
before the class name) run once per context; their keys and values are what the
tokens after them need. Nothing runs behind the end token, and classes are
grouped by length so that short names do not wait for long ones. All of this is
exact, up to the order of additions.
"""

import dataclasses
import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal import precision
from jaxcal import pytrees
from jaxcal.clip import prompts
from jaxcal.clip import towers
from jaxcal.compiled import compiled
from jaxcal.compiled import compiled_with
from jaxcal.typing import AnyArray
from jaxcal.typing import Array
from jaxcal.typing import at_least_float32
from jaxcal.typing import Bool
from jaxcal.typing import Float
from jaxcal.typing import Int
from jaxcal.typing import PyTree


@pytrees.register_dataclass
@dataclasses.dataclass(frozen=True)
class Group:
  """Classes whose prompts are about equally long; what follows the prefix.

  Attributes:
    embeddings: Token vectors after the shared prefix, without positions.
    context_positions: Where the rest of the context stands in them, if the
      class name does not come last.
    end_positions: Where the end token stands in them.
  """

  embeddings: Float[Array, "c t w"]
  context_positions: Int[Array, "c r"]
  end_positions: Int[Array, "c"]


@pytrees.register_dataclass
@dataclasses.dataclass(frozen=True)
class Encoder:
  """From a context [m w] to unit-norm text features [k d].

  A pytree: pass it through `jit` as an argument, so that weights and prompts
  are not constants of the program.

  Attributes:
    start: Vector of the start token, [w].
    positions: Vectors of the positions, [t w].
    layers: The tower's blocks, stacked along a first axis.
    final_layer_norm: Scale and bias of the last layer norm.
    projection: The last linear map; acts on what `pooled` returns.
    groups: The classes, in groups of about equal length.
    order: Row of each class in the groups one after the other.
    config: The text tower.
    num_context: Number m of context vectors.
    num_shared: Context vectors that stand before the class name.
    classes_per_chunk: Classes of the longest length that run at a time, more of
      shorter ones; or None for all.
  """

  start: Float[Array, "w"]
  positions: Float[Array, "t w"]
  layers: PyTree
  final_layer_norm: PyTree
  projection: towers.Projection
  groups: tuple[Group, ...]
  order: Int[Array, "k"]
  config: towers.TowerConfig = dataclasses.field(metadata={"static": True})
  num_context: int = dataclasses.field(metadata={"static": True})
  num_shared: int = dataclasses.field(metadata={"static": True})
  classes_per_chunk: int | None = dataclasses.field(
      metadata={"static": True})

  @property
  def context_shape(self) -> tuple[int, int]:
    """Number and width of the context's vectors."""
    return self.num_context, self.start.shape[-1]

  @compiled
  def __call__(
      self,
      context: Float[Array, "m w"],
      offset: Float[Array, "t w"] | None = None,
      *,
      deep: Float[Array, "e n w"] | None = None,
  ) -> Float[Array, "k d"]:
    """Unit-norm text features.

    Args:
      context: Context shared by all classes.
      offset: Offset added to the token vectors of every prompt, position by
        position (the noise of flatness-aware pre-training).
      deep: Vectors, of which deep[i] take the place of the states of the first
        n context vectors, which stand before the class name, before layer i +
        1.

    Raises:
      ValueError: A context of another shape, or deep prompts that do not fit.
    """
    return self._all_classes(self._project, context, offset, deep)

  @compiled
  def pooled(
      self,
      context: Float[Array, "m w"],
      offset: Float[Array, "t w"] | None = None,
      *,
      deep: Float[Array, "e n w"] | None = None,
  ) -> Float[Array, "k w"]:
    """What the projection sees of each class; arguments as in a call."""
    return self._all_classes(lambda pooled: pooled, context, offset, deep)

  @compiled
  def jacobian(
      self, context: Float[Array, "m w"]) -> Float[Array, "k d m w"]:
    """Derivative of every text feature by the context.

    Class by class, d backward passes each: about the cost of 4 d images, after
    which the gradient of an image is one matrix product.
    """
    context = self._checked(context)

    def one(tail):
      def features(context):
        keys, values = self._prefix(context, None, None)
        return self._project(self._class(context, keys, values, None, tail))

      return jax.jacrev(features)(context)

    classes = jnp.argsort(self.order)
    dtype = self.projection.kernel.dtype
    # Each goes to its place at once: this is by far the largest array there is.
    result = jnp.zeros((len(classes), self.projection.kernel.shape[-1],
                        *context.shape), jnp.promote_types(dtype, jnp.float32))
    first = 0
    with precision.at(self.config.precision):
      for group in self.groups:
        count = len(group.embeddings)

        def step(number, result, group=group, first=first):
          tail = jax.tree.map(lambda x: x[number], group)
          return result.at[classes[first + number]].set(one(tail))

        result = jax.lax.fori_loop(0, count, step, result)
        first += count
    return result

  @compiled_with("max_groups")
  def take(self, rows: Int[AnyArray, "r"], *, max_groups: int = 2) -> "Encoder":
    """The encoder of these classes alone; under `jit`, of any as many.

    Shapes do not depend on which classes are taken, for there is room for the
    longest of all. The more groups there are to take from, the better this room
    is known: make the encoder with a group for each length.

    Args:
      rows: Positions in the classes, all different unless there is one group:
        copies of long classes find no room, and their features are NaN.
      max_groups: Largest number of groups of the result, see `context_encoder`.
    """
    counts, lengths = zip(*(
        group.embeddings.shape[:2] for group in self.groups))
    room = np.repeat(lengths, counts)[-len(rows):]  # ascending, as the groups
    room = np.pad(room, (len(rows) - len(room), 0), mode="edge")
    rows = self.order[rows]
    ascending = jnp.argsort(rows)
    padded = group_lengths(room, max_groups)
    stops = np.searchsorted(room, padded, side="right")
    parts = jnp.split(rows[ascending], stops[:-1])
    return dataclasses.replace(
        self, groups=tuple(map(self._gathered, parts, padded)),
        order=jnp.argsort(ascending))

  def _gathered(self, rows, length):
    """A group of this length; rows count in the groups one after the other."""
    found: Group | None = None
    first = 0
    for group in self.groups:
      count, tokens = group.embeddings.shape[:2]
      if tokens > length:
        break
      some = jax.tree.map(lambda x: x[jnp.clip(rows - first, 0, count - 1)],
                          group)
      some = dataclasses.replace(some, embeddings=jnp.pad(
          some.embeddings, ((0, 0), (0, length - tokens), (0, 0))))
      found = some if found is None else jax.tree.map(
          functools.partial(_where, rows >= first), some, found)
      first += count
    assert found is not None  # the first group is the shortest
    # Behind the last token, where nothing is to be read off.
    ends = jnp.where(rows < first, found.end_positions, length)
    return dataclasses.replace(found, end_positions=ends)

  def _all_classes(self, finish, context, offset, deep):
    """`finish` of what the projection sees, class by class."""
    context = self._checked(context)
    with precision.at(self.config.precision):
      keys, values = self._prefix(context, offset, deep)
      one = lambda tail: finish(
          self._class(context, keys, values, offset, tail))
      some = lambda groups: [jax.vmap(one)(group) for group in groups]
      rows = self._in_chunks(some)
    return jnp.concatenate(rows)[self.order]

  def _project(self, pooled):
    return towers.normalise(towers.project(
        pooled, self.projection, precision=self.config.precision))

  def _in_chunks(self, some):
    """`some` of the groups, of which every chunk has its share.

    One loop for all groups: those of one loop each, and what is left over of
    them, may run at the same time, so that their memory adds up.
    """
    counts, lengths = np.transpose([
        group.embeddings.shape[:2] for group in self.groups])
    size = self.classes_per_chunk
    number = 1 if size is None else min(
        -(-(counts @ lengths) // (size * lengths.max())), counts.max())
    if number == 1:
      return some(self.groups)
    # Backward, a chunk runs again instead of keeping what it computed.
    rows = jax.lax.map(
        jax.checkpoint(some),
        jax.tree.map(lambda x: _shares(x, number), self.groups))
    return [x.reshape(-1, x.shape[-1])[:count]
            for x, count in zip(rows, counts)]

  def _prefix(self, context, offset, deep):
    """Keys and values [layer, head, token, .] of what all prompts share."""
    x = jnp.concatenate([self.start[None], context[:self.num_shared]])
    x = self._placed(x, offset, 0)
    mask = towers.causal_mask(len(x))

    def block(x, given):
      layer, entering = given
      if entering is not None:
        vectors, enters = entering
        x = jnp.where(enters, x.at[1:1 + len(vectors)].set(vectors), x)
      query, key, value = self._heads(x, layer)
      mixed = _attend(query, ((key, value, mask),))
      x = x + _dense(mixed, layer["out"])
      return self._mlp(x, layer), (key, value)

    return jax.lax.scan(block, x, (self.layers, self._entering(deep)))[1]

  def _entering(self, deep):
    """For each layer, the vectors that enter before it, and whether they do."""
    if deep is None:
      return None
    towers.check_deep_prompts(deep, self.config, self.num_shared)
    number = jnp.arange(self.config.layers)
    vectors = jnp.pad(deep.astype(self.start.dtype), (
        (1, len(number) - 1 - len(deep)), (0, 0), (0, 0)))
    return vectors, (number > 0) & (number <= len(deep))

  def _class(self, context, prefix_keys, prefix_values, offset, tail):
    """One class before the projection, given what came before its tokens."""
    x = tail.embeddings.at[tail.context_positions].set(
        context[self.num_shared:], unique_indices=True)
    x = self._placed(x, offset, 1 + self.num_shared)
    mask = towers.causal_mask(len(x))
    everything = jnp.ones((len(x), 1 + self.num_shared), bool)

    def block(x, given):
      layer, earlier_key, earlier_value = given
      query, key, value = self._heads(x, layer)
      mixed = _attend(query, ((earlier_key, earlier_value, everything),
                              (key, value, mask)))
      return self._mlp(x + _dense(mixed, layer["out"]), layer), None

    x, _ = jax.lax.scan(block, x, (self.layers, prefix_keys, prefix_values))
    end = x.at[tail.end_positions].get(mode="fill", fill_value=jnp.nan)
    return self._norm(end[None], self.final_layer_norm)[0]

  def _placed(self, x, offset, first):
    places = slice(first, first + len(x))
    x = x + self.positions[places]
    return x if offset is None else x + offset[places]

  def _heads(self, x, layer):
    """Queries, keys and values, each [head, token, .]."""
    x = _dense(self._norm(x, layer["layer_norm1"]), layer["query_key_value"])
    x = x.reshape(len(x), 3, self.config.heads, -1)
    return x.transpose(1, 2, 0, 3)

  def _mlp(self, x, layer):
    hidden = _dense(self._norm(x, layer["layer_norm2"]), layer["up"])
    hidden = towers.ACTIVATIONS[self.config.activation](hidden)
    return x + _dense(hidden, layer["down"])

  def _norm(self, x, params):
    dtype, x = x.dtype, at_least_float32(x)
    x = x - x.mean(axis=-1, keepdims=True)
    x = x * jax.lax.rsqrt((x * x).mean(axis=-1, keepdims=True) +
                          self.config.layer_norm_eps)
    return (x * params["scale"][None] + params["bias"][None]).astype(dtype)

  def _checked(self, context):
    expected = self.context_shape
    if context.shape != expected:
      raise ValueError(
          f"a context of shape {expected}, shared by the classes, expected, "
          f"but {context.shape=}; prompts.context_encoder takes one per class")
    return context.astype(self.start.dtype)


def context_encoder(
    config: towers.ClipConfig,
    params: towers.Params,
    bank: prompts.PromptBank,
    *,
    classes_per_chunk: int | None = None,
    max_groups: int = 4,
) -> Encoder:
  """The fast form of `prompts.context_encoder`, for causal text towers.

  Args:
    config: Sizes of the model.
    params: The whole parameter tree.
    bank: The prompts whose context is replaced.
    classes_per_chunk: Bounds memory by this many classes at a time, see
      `classes_within`; None runs all at once.
    max_groups: Groups of equal length that the classes are padded to. More of
      them waste less, but each takes its time to compile.

  Raises:
    ValueError: A tower that is not causal, where nothing can be shared; use
      `prompts.context_encoder`.
  """
  if not config.causal:
    raise ValueError("prompts share a prefix only in a causal text tower; this "
                     "one is not, so use prompts.context_encoder")
  ids, context, ends = (np.asarray(array) for array in bank)
  num_shared = _num_shared(context)
  first = 1 + num_shared
  lengths = ends + 1 - first
  padded = group_lengths(lengths, max_groups)
  group_of = np.searchsorted(padded, lengths)
  groups = []
  for number, longest in enumerate(padded):
    rows = np.flatnonzero(group_of == number)
    groups.append((ids[rows, first:first + longest],
                   context[rows, num_shared:] - first, ends[rows] - first))
  order = np.argsort(np.argsort(group_of, kind="stable"))
  text = params["text_model"]
  positions = text["embeddings"]["position_embedding"]["embedding"]
  start, made, layers = _computed(
      params, ids[0, 0], groups, config.text.layers)
  return Encoder(
      start=start,
      positions=jnp.asarray(positions),
      layers=layers,
      final_layer_norm=text["final_layer_norm"],
      projection=towers.text_projection(config, params),
      groups=made,
      order=jax.device_put(order),
      config=config.text, num_context=context.shape[1], num_shared=num_shared,
      classes_per_chunk=classes_per_chunk)


def classes_within(
    config: towers.ClipConfig,
    bank: prompts.PromptBank,
    *,
    max_bytes: int,
    num_contexts: int = 1,
) -> int:
  """How many classes fit a memory budget, at least 1.

  Counted is what a backward pass keeps of one context, in all layers, and
  what one layer of `num_contexts` contexts needs at a time.

  Args:
    config: Sizes of the model.
    bank: The prompts; the longest one counts.
    max_bytes: The budget.
    num_contexts: Number of contexts that are encoded at once, under `vmap`.

  Raises:
    ValueError: A budget or number of contexts below 1.
  """
  if max_bytes < 1 or num_contexts < 1:
    raise ValueError(f"expected {max_bytes=} and {num_contexts=} of 1 or more")
  text = config.text
  tokens = int(np.max(np.asarray(bank.end_positions))) - _num_shared(
      np.asarray(bank.context_positions))
  # Of one token in one layer: norms, queries, keys, values, attention and its
  # output, and three forms of the hidden layer.
  per_token = 4 * (10 * text.width + 3 * text.mlp_width)
  per_class = tokens * per_token * (text.layers + num_contexts)
  return max(1, int(max_bytes // per_class))


def group_lengths(lengths: Int[np.ndarray, "k"], max_groups: int) -> list[int]:
  """Lengths to pad to, at most `max_groups`, with the least padding in all.

  Args:
    lengths: Tokens of each prompt.
    max_groups: Largest number of groups, at least 1.

  Returns:
    Ascending; the last one is the longest length.
  """
  values, counts = np.unique(lengths, return_counts=True)
  # best[j]: least number of tokens, and the choice, for the first j values.
  best: dict[int, tuple[int, list[int]]] = {0: (0, [])}
  for _ in range(max_groups):
    best |= {
        stop: min(
            ([best[stop]] if stop in best else []) +
            [(best[start][0] + int(counts[start:stop].sum() * values[stop - 1]),
              best[start][1] + [int(values[stop - 1])])
             for start in range(stop) if start in best])
        for stop in range(len(values), 0, -1)}
  return best[len(values)][1]


def _num_shared(context_positions):
  """Context tokens that follow the start token at once, in every prompt."""
  m = context_positions.shape[1]
  in_place = (context_positions == np.arange(1, m + 1)[None]).all(axis=0)
  return m if in_place.all() else int(in_place.argmin())


def _shares(x, number):
  """Equal shares of the first axis; the last ones repeat its last entry."""
  size = -(-len(x) // number)
  rows = np.minimum(np.arange(number * size), len(x) - 1)
  return x[rows].reshape(number, size, *x.shape[1:])


def _where(condition, x, other):
  return jnp.where(jnp.expand_dims(condition, range(1, x.ndim)), x, other)


@compiled_with("num_layers")
def _computed(params, start, groups, num_layers):
  """What an encoder has of the parameters and of token ids, as one program.

  Args:
    params: The whole parameter tree.
    start: Id of the start token.
    groups: For each group, token ids in place of `Group.embeddings`, and the
      other arrays.
    num_layers: Number of blocks.
  """
  made = [Group(towers.token_embeddings(params, ids), *positions)
          for ids, *positions in groups]
  layers = params["text_model"]["encoder"]["layers"]
  return (towers.token_embeddings(params, start), tuple(made),
          _stacked(layers, num_layers))


def _stacked(layers, count):
  """The blocks' parameters, queries, keys and values side by side."""
  return jax.tree.map(
      lambda *leaves: jnp.stack(leaves),
      *(_merged(layers[str(number)]) for number in range(count)))


def _merged(layer):
  attention, mlp = layer["self_attn"], layer["mlp"]
  three = [attention[name] for name in ("q_proj", "k_proj", "v_proj")]
  return {
      "layer_norm1": layer["layer_norm1"],
      "query_key_value": jax.tree.map(
          lambda *leaves: jnp.concatenate(leaves, axis=-1), *three),
      "out": attention["out_proj"],
      "layer_norm2": layer["layer_norm2"],
      "up": mlp["fc1"],
      "down": mlp["fc2"],
  }


def _dense(x, params):
  return x @ params["kernel"] + params["bias"][None]


def _attend(
    query: Float[Array, "h t e"],
    sources: tuple[
        tuple[Float[Array, "h _ e"], Float[Array, "h _ e"], Bool[Array, "t _"]],
        ...],
) -> Float[Array, "t w"]:
  """Attention over several sources of (keys, values, mask) as one.

  The sources are not put together, so that under `vmap` over classes those
  that classes share are not copied for each.
  """
  scale = query.shape[-1]**-0.5
  scores = []
  for key, _, mask in sources:
    score = at_least_float32(query @ key.swapaxes(-1, -2)) * scale
    scores.append(jnp.where(mask[None], score, jnp.finfo(score.dtype).min))
  sizes = [score.shape[-1] for score in scores]
  weights = jax.nn.softmax(jnp.concatenate(scores, axis=-1), axis=-1)
  shares = jnp.split(weights.astype(query.dtype), np.cumsum(sizes)[:-1], -1)
  mixed = functools.reduce(operator.add, (
      share @ value for share, (_, value, _) in zip(shares, sources)))
  return mixed.swapaxes(0, 1).reshape(query.shape[1], -1)
