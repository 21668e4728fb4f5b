"""A graph of texts and of all images so far, along which labels spread."""

import dataclasses
import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxcal import precision
from jaxcal import pytrees
from jaxcal.adapt import base
from jaxcal.adapt import numbers as numbers_lib
from jaxcal.adapt import places
from jaxcal.clip import towers
from jaxcal.typing import Array
from jaxcal.typing import Float
from jaxcal.typing import Int
from jaxcal.typing import Number

_EPSILON = 1e-6  # beside the root of a node's degree
_START = 1 / 5  # of a node's score, for the class that it has next time


class Neighbours(NamedTuple):
  """Of every image the most similar nodes, the most similar one first.

  Attributes:
    similarity: Similarities; minus infinity where there is no neighbour.
    node: Positions of the nodes; of no meaning there.
  """

  similarity: Float[Array, "n c"]
  node: Int[Array, "n c"]


class State(NamedTuple):
  """What ECALP remembers of the stream, a row for each image.

  Attributes:
    weighted: Features by dimensions that tell classes apart, at unit norm.
    images: Neighbours among the images.
    texts: Neighbours among the texts.
    label: Class where spreading starts next time.
    value: Score there.
    seen: Number of images so far; the rows after it are empty.
  """

  weighted: Float[Array, "n d"]
  images: Neighbours
  texts: Neighbours
  label: Int[Array, "n"]
  value: Float[Array, "n"]
  seen: Int[Array, ""]


@pytrees.register_dataclass
@dataclasses.dataclass(frozen=True)
class Ecalp:
  r"""Labels that spread from texts over all images so far (ECALP).

  Nodes are the classes, the images so far and, once more, the current one. Each
  image has edges to its `image_neighbours` most similar images, itself among
  them, and to its `text_neighbours` nearest texts, of weight

  .. math:: w_{ij} = S_{ij}^{\gamma}, \quad
            S_{ij} = \langle \mathrm{unit}(\omega x_i), x_j \rangle
            \text{ for images } i \le j

  where omega is the variance of the text features over the classes, by
  dimension. Labels start at those of the step before and spread along B, texts
  keeping theirs:

  .. math:: Y \leftarrow B \begin{pmatrix} I \\ Y \end{pmatrix}, \quad
            B = D^{-1/2} (W + W^T) D^{-1/2}

  Scores are those of the current image's second node. Their distribution is
  softmax(sharpness * scores): the released factor is arbitrary and takes nearly
  every confidence to 1, so a calibration error of ECALP measures that factor.

  Memory grows with the stream, time per image too. So the length of the stream
  must be known: `jaxcal.predict`, the command and the runners say it.

  Attributes:
    sharpness: Factor of the scores in the distribution.
    image_neighbours: Edges from an image to images, at least one.
    text_neighbours: Edges from an image to texts, at least one.
    power: Power of a similarity, an even one so that weights are not negative
      (gamma).
    num_rounds: Rounds of spreading.
    length: Number of images that there is room for; that of the task if None.
      Images beyond it get NaN.

  Source: Li et al., Efficient and Context-Aware Label Propagation for
  Zero-/Few-Shot Training-Free Adaptation of Vision-Language Model, ICLR 2025
  (Yushu-Li/ECALP @96ddf0b), in the form of the benchmark TomSheng21/tta-vlm
  @bcc735f.
  Differs from the released code in: scores before the softmax; exact neighbours
  at every step, where the released lists miss some; equal similarities to
  images, of which the later image counts.
  """

  sharpness: Number = 1e4
  image_neighbours: int = dataclasses.field(
      default=8, metadata={"static": True})
  text_neighbours: int = dataclasses.field(default=3, metadata={"static": True})
  power: int = dataclasses.field(default=10, metadata={"static": True})
  num_rounds: int = dataclasses.field(default=3, metadata={"static": True})
  length: int | None = dataclasses.field(
      default=None, metadata={"static": True})

  def method(self) -> base.TestTimeMethod:
    """Scores as above; info has their sum, what reaches the image.

    Raises:
      ValueError: A number that is no positive integer, or an odd power.
    """
    numbers_lib.refuse_no_counts(
        self, "image_neighbours", "text_neighbours", "power", "num_rounds")
    if self.power % 2:
      raise ValueError(f"power must be even, got {self.power}")
    if self.length is not None:
      numbers_lib.refuse_no_counts(self, "length")
    return base.TestTimeMethod(Partial(_init, self), Partial(_step, self))


def _init(numbers: Ecalp, task: base.Task) -> State:
  room, like = _room(numbers, task), task.text_features
  num_texts = min(numbers.text_neighbours, len(like))
  none = lambda count: Neighbours(
      jnp.full((room, count), -jnp.inf, like.dtype),
      jnp.zeros((room, count), jnp.int32))
  return State(
      jnp.zeros((room, like.shape[1]), like.dtype),
      none(numbers.image_neighbours), none(num_texts),
      jnp.zeros(room, jnp.int32), jnp.zeros(room, like.dtype),
      jnp.zeros((), jnp.int32))


def _room(numbers, task):
  """Number of images that there is room for."""
  try:
    expected = operator.index(task.num_images)
  except TypeError as error:  # traced
    if numbers.length is None:
      raise ValueError(
          "the memory has the size of the stream, but num_images of the task "
          "is no plain number here: give Ecalp(length=...), or call init "
          "outside of jit, as the runners do") from error
    expected = 0
  if numbers.length is not None and numbers.length < expected:
    raise ValueError(
        f"there is room for length={numbers.length} images, but the stream has "
        f"{expected}; give a length of at least that, or leave it out")
  return max(1, expected if numbers.length is None else numbers.length)


@precision.highest
def _step(numbers: Ecalp, task: base.Task, state: State,
          views: Float[Array, "v d"]):
  after, similarity = _entered(numbers, task, state, views[0])
  scores = _spread(numbers, after, similarity, len(task.text_features))
  fits = state.seen < len(state.label)
  own = jnp.where(fits, scores[-1], jnp.nan)
  after = after._replace(
      label=jnp.argmax(scores[:-1], axis=1).astype(jnp.int32),
      value=_START * jnp.max(scores[:-1], axis=1), seen=state.seen + 1)
  return after, base.Output(
      own, jax.nn.log_softmax(numbers.sharpness * (own - jnp.max(own))),
      {"label_mass": jnp.sum(own)})


def _entered(numbers, task, state, features):
  """The state with an image in its row, and its similarity to every row.

  That is minus infinity for rows that are still empty. Where spreading starts
  is left as it was.
  """
  number, rows = state.seen, jnp.arange(len(state.label))
  write = lambda old, new: places.write(old, (number,), new)
  variance = jnp.var(task.text_features, axis=0, ddof=1)
  weighted = write(state.weighted, towers.normalise(
      towers.normalise(variance) * features))
  similarity = jnp.where(rows <= number, weighted @ features, -jnp.inf)
  images = jax.tree.map(
      write, _with(state.images, similarity, number),
      _most_similar(similarity, numbers.image_neighbours))
  texts = jax.tree.map(write, state.texts, _nearest_texts(
      task, features, state.texts.node.shape[1]))
  return state._replace(
      weighted=weighted, images=images, texts=texts,
      value=jnp.where(rows < number, state.value, 0)), similarity


def _most_similar(similarity, count):
  """The nodes of highest similarity, of equal ones the later."""
  missing = jnp.full(count, -jnp.inf, similarity.dtype)
  values, from_last = jax.lax.top_k(
      jnp.concatenate([similarity[::-1], missing]), count)
  return Neighbours(values, jnp.maximum(0, len(similarity) - 1 - from_last))


def _nearest_texts(task, features, count):
  return Neighbours(*jax.lax.top_k(task.text_features @ features, count))


def _with(lists, similarity, node):
  """Lists of neighbours with a further node, a later one than all in them.

  Args:
    lists: Neighbours of each image.
    similarity: Similarity of the node to each image.
    node: Position of the node.
  """
  column = jnp.arange(lists.node.shape[1])[None]
  rank = jnp.sum(
      lists.similarity > similarity[:, None], axis=1, keepdims=True)

  def enter(old, new):
    moved = jnp.concatenate([old[:, :1], old[:, :-1]], axis=1)
    return jnp.where(column < rank, old, jnp.where(column > rank, moved, new))

  return Neighbours(enter(lists.similarity, similarity[:, None]),
                    enter(lists.node, jnp.asarray(node, jnp.int32)))


def _spread(numbers, state, similarity, num_classes):
  """Scores of each image, and in the last row of the current one's second node.
  """
  number, room = state.seen, len(state.label)
  again = lambda rows: jnp.concatenate([rows, rows[number][None]])
  images = jax.tree.map(again, _with(state.images, similarity, room))
  texts = jax.tree.map(again, state.texts)
  to_images, to_texts = _scaled(numbers, images, texts, num_classes)
  rows = jnp.arange(room + 1)[:, None]
  from_texts = jnp.zeros((room + 1, num_classes), to_texts.dtype).at[
      rows, texts.node].add(to_texts)
  start = jnp.zeros_like(from_texts).at[jnp.arange(room), state.label].set(
      state.value)

  def body(_, scores):
    gathered = jnp.einsum("nc,nck->nk", to_images, scores[images.node])
    return (from_texts + gathered).at[images.node].add(
        to_images[..., None] * scores[:, None])

  return jax.lax.fori_loop(0, numbers.num_rounds, body, start)


def _scaled(numbers, images, texts, num_classes):
  """Weights of the edges to images and to texts, over the roots of degrees."""
  weight = lambda one: jnp.where(
      jnp.isfinite(one.similarity), one.similarity, 0) ** numbers.power
  to_images, to_texts = weight(images), weight(texts)
  degree = (jnp.sum(to_images, axis=1) + jnp.sum(to_texts, axis=1)).at[
      images.node].add(to_images)
  of_texts = jnp.zeros(num_classes, degree.dtype).at[texts.node].add(to_texts)
  root = lambda degree: 1 / (jnp.sqrt(degree) + _EPSILON)
  own = root(degree)[:, None]
  return (own * to_images * root(degree)[images.node],
          own * to_texts * root(of_texts)[texts.node])
