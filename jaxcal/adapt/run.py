"""Runners: a method over images without order, or along streams of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal import precision
from jaxcal.adapt import base
from jaxcal.compiled import compiled_with
from jaxcal.typing import AnyArray
from jaxcal.typing import Array
from jaxcal.typing import Float
from jaxcal.typing import Int
from jaxcal.typing import PyTree

# Bytes of a state from which streams run one after the other.
LARGE_STATE = 2**22


class Chunk(NamedTuple):
  """A stretch of streams that is done.

  Attributes:
    stop: Number of images of each stream that are done.
    positions: Positions of the images of this chunk, by stream.
    outputs: Outputs for these images, with leading axes [r c].
    states: States after the chunk, one per stream; enough to go on from here.
  """

  stop: int
  positions: Int[np.ndarray, "r c"]
  outputs: base.Outputs
  states: PyTree


@precision.highest
def episodic(
    method: base.TestTimeMethod,
    task: base.Task,
    images: PyTree[Float[Array, "n ..."]],
) -> base.Outputs:
  """Every image on its own, from the initial state: as many streams of one.

  For `jit`; images can be split over devices.

  Returns:
    Outputs with a leading axis of images.
  """
  task = task._replace(num_images=1)
  state = method.init(task)
  return jax.vmap(lambda image: method.step(task, state, image)[1])(images)


def episodic_each(
    methods: Mapping[str, base.TestTimeMethod],
    task: base.Task,
    images: PyTree[Float[Array, "n ..."]],
) -> dict[str, base.Outputs]:
  """`episodic` for several methods; of a grid of numbers, one program.

  Those that differ in numbers alone run one after the other through the same
  code, so that compile time and memory do not grow with the grid.
  """
  groups: dict[Any, list[str]] = {}
  for name, method in methods.items():
    shapes = tuple(jnp.shape(leaf) for leaf in jax.tree.leaves(method))
    groups.setdefault((jax.tree.structure(method), shapes), []).append(name)
  found: dict[str, base.Outputs] = {}
  for names in groups.values():
    if len(names) == 1:
      found[names[0]] = episodic(methods[names[0]], task, images)
      continue
    outputs = jax.lax.map(lambda method: episodic(method, task, images),
                          stack([methods[name] for name in names]))
    found |= {name: jax.tree.map(lambda x, i=i: x[i], outputs)
              for i, name in enumerate(names)}
  return {name: found[name] for name in methods}


def stream(
    method: base.TestTimeMethod,
    task: base.Task,
    images: PyTree[Float[Array, "n ..."]],
    orders: Int[Array, "r n"],
) -> base.Outputs:
  """Streams of all images, each in an order of its own, all at once.

  For `jit`. `vmap` over stacked numbers of a method gives a grid of them.

  Args:
    method: What sees the images.
    task: What they share.
    images: View features, in the order of the data set.
    orders: Positions of the images, a permutation for each stream.

  Returns:
    Outputs with leading axes [r n]; row i is image i, wherever in the stream
    it came.
  """
  task = task._replace(num_images=orders.shape[1])
  _, outputs = advance(
      method, task, begin(method, task, len(orders)), images, orders)
  place = lambda order, x: jnp.zeros_like(x).at[order].set(x)
  return jax.tree.map(lambda x: jax.vmap(place)(orders, x), outputs)


def begin(
    method: base.TestTimeMethod, task: base.Task, num_streams: int) -> PyTree:
  """The state of each stream before its first image."""
  if not isinstance(task.num_images, int):  # traced, or an array
    return _begun(method, task, num_streams)
  # As a plain number it may decide shapes, so it is part of the program.
  return _begun_compiled(
      method, task._replace(num_images=0), num_streams, task.num_images)


def _begun(method, task, num_streams):
  return jax.tree.map(
      lambda x: jnp.repeat(x[None], num_streams, axis=0),
      jax.tree.map(jnp.asarray, method.init(task)))


@compiled_with("num_streams", "num_images")
def _begun_compiled(method, task, num_streams, num_images):
  return _begun(method, task._replace(num_images=num_images), num_streams)


@jax.jit
@precision.highest
def advance(
    method: base.TestTimeMethod,
    task: base.Task,
    states: PyTree,
    images: PyTree[Float[Array, "u ..."]],
    positions: Int[Array, "r c"],
) -> tuple[PyTree, base.Outputs]:
  """The next images of each stream, compiled.

  Args:
    method: What sees the images.
    task: What they share.
    states: States from `begin`, or of the stretch before. Streams run at once,
      but one after the other where a state has more than `LARGE_STATE` bytes.
    images: View features of the images that are seen, of all streams.
    positions: Rows of `images`, in the order of each stream.

  Returns:
    The states afterwards, and outputs [r c] in the order of the streams.
  """
  def run(given):
    state, order = given
    return jax.lax.scan(
        lambda state, row: method.step(
            task, state, jax.tree.map(lambda x: x[row], images)), state, order)

  # Under `vmap` a write into one place of each state is a copy of all of them
  # on a CPU, for every image: with the memory of DMN that doubled the time.
  if len(positions) > 1 and _num_bytes(states) > len(positions) * LARGE_STATE:
    return jax.lax.map(run, (states, positions))
  return jax.vmap(run)((states, positions))


def _num_bytes(tree):
  return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def stream_in_chunks(
    method: base.TestTimeMethod,
    task: base.Task,
    read: Callable[[Int[np.ndarray, "u"]], Float[Array, "u v d"]],
    orders: Int[AnyArray, "r n"],
    *,
    chunk_size: int = 1024,
    states: PyTree | None = None,
    start: int = 0,
) -> Iterator[Chunk]:
  """Streams in stretches, so that neither images nor outputs need fit at once.

  Memory does not grow with the length of the streams. The outputs are those of
  `stream`; a stream that goes on from the states of a chunk gives the same
  ones, to the last bit where the chunks begin at the same places.

  Args:
    method: What sees the images.
    task: What they share.
    read: Function from ascending positions to the images' view features.
    orders: Positions of the images, a permutation for each stream.
    chunk_size: Images of a chunk, of each stream.
    states: States of the last chunk; at the beginning if None.
    start: How many images of each stream were done with it.

  Raises:
    ValueError: A start outside the streams, or states without a start.
  """
  orders = np.asarray(orders)
  num_streams, length = orders.shape
  if not 0 <= start <= length or (states is None) != (start == 0):
    raise ValueError(f"expected a start in [0, {length}], 0 without states and "
                     f"not 0 with them, got {start}")
  task = task._replace(num_images=length)
  if states is None:
    states = begin(method, task, num_streams)
  for first in range(start, length, chunk_size):
    positions = orders[:, first:first + chunk_size]
    needed, rows = np.unique(positions, return_inverse=True)
    states, outputs = advance(
        method, task, states, read(needed), rows.reshape(positions.shape))
    yield Chunk(first + positions.shape[1], positions, outputs, states)


def stack(methods: Sequence[Any]) -> Any:
  """The numbers of methods that differ in nothing else, as one for `vmap`."""
  return jax.tree.map(lambda *leaves: jnp.stack(
      [jnp.asarray(leaf) for leaf in leaves]), *methods)
