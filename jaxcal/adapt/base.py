"""The contract of everything that happens at test time.

A method is a frozen dataclass of its numbers, registered as a pytree: numbers
that only enter arithmetic are leaves, so that one compiled program serves all
their values; what decides shapes or loops is static. Its `method()` gives a
`TestTimeMethod`, two pure functions of one image. Runners are in `run`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
from jax.tree_util import Partial

from jaxcal import precision
from jaxcal.clip import last_blocks
from jaxcal.compiled import compiled
from jaxcal.typing import Array
from jaxcal.typing import Float
from jaxcal.typing import Int
from jaxcal.typing import Number
from jaxcal.typing import PyTree

# From a context [m w] to unit-norm text features [k d]. A pytree, so that its
# arrays are arguments under `jit`.
Encode = Callable[[Float[Array, "m w"]], Float[Array, "k d"]]


class Task(NamedTuple):
  """What all images of a data set and model share.

  Attributes:
    text_features: One unit-norm row per class.
    logit_scale: Factor of the cosines, 100 for OpenAI's CLIP.
    encode: Text features as a function of the prompts' context; None where
      only features are at hand, and no prompt can be tuned.
    context: Context at which every image starts; goes with `encode`.
    num_images: Length of the stream, for methods that need it beforehand; the
      runners fill it in. A plain number in `init`, where it may decide shapes.
    image_blocks: Last blocks of the image tower, for methods that adapt them,
      see `image_blocks`; `jaxcal.run` fills them in.
  """

  text_features: Float[Array, "k d"]
  logit_scale: Number
  encode: Encode | None = None
  context: Float[Array, "m w"] | None = None
  num_images: int | Int[Array, ""] = 0
  image_blocks: last_blocks.LastBlocks | None = None


class Seen(NamedTuple):
  """What a method that adapts the image tower sees of an image.

  Attributes:
    views: Unit-norm features of its views.
    states: States of all views that enter the task's `image_blocks`.
  """

  views: Float[Array, "v d"]
  states: Float[Array, "v t w"]


class Output(NamedTuple):
  """What a method says of one image.

  Attributes:
    scores: Logits, votes, sums of probabilities, ..., as the released code
      has them.
    log_probs: Logarithm of a distribution, by the method's documented map from
      scores; what calibration is measured on. Its argmax is that of the scores.
    info: Diagnostics by name.
    evidence: Arrays by the names of `predictions.EVIDENCE`, where a method was
      asked for some.
  """

  scores: Float[Array, "k"]
  log_probs: Float[Array, "k"]
  info: Mapping[str, Float[Array, ""]] = {}
  evidence: Mapping[str, Float[Array, "..."]] = {}


# Some methods together give an output for each name.
Outputs = Output | Mapping[str, Output]


class TestTimeMethod(NamedTuple):
  """Two pure functions of one image; `jit` and `vmap` are the runners'.

  Attributes:
    init: State before the first image, from the task; () for methods without
      one, of which no image sees another.
    step: Function of task, state and one image's unit-norm view features
      [v d], of which row 0 is the clean view (or `Seen`, see `image_blocks`);
      gives the next state and the output, or an output for each name.
  """

  init: Callable[[Task], PyTree]
  step: Callable[[Task, PyTree, Float[Array, "v d"]], tuple[PyTree, Outputs]]


# No test, whatever its name says to pytest; no field either.
setattr(TestTimeMethod, "__test__", False)


@runtime_checkable
class Numbers(Protocol):
  """A dataclass of a method's numbers."""

  def method(self) -> TestTimeMethod:
    """The method with these numbers."""


def episodic(
    step: Callable[..., Outputs], *bound: Any
) -> TestTimeMethod:
  """A method without state.

  Args:
    step: Function of (*bound, task, views) to an output, or one for each name.
    bound: Pytrees, such as the method's numbers; arguments under `jit`.
  """
  return TestTimeMethod(Partial(_no_state), Partial(_stateless, step=Partial(
      step, *bound)))


def image_blocks(method: Numbers) -> int:
  """How many of the last blocks of the image tower a method adapts.

  None unless its numbers have a property `image_blocks`. Then its step takes
  `Seen` in place of the view features, and the task has these blocks and
  perhaps more before them.
  """
  return getattr(method, "image_blocks", 0)


def num_contexts(method: Numbers) -> int:
  """How many contexts a method encodes for each image, after the initial one.

  None unless its numbers have a property `num_contexts`.
  """
  return getattr(method, "num_contexts", 0)


def has_state(method: TestTimeMethod, task: Task) -> bool:
  """Whether an image can see what came before it in the stream."""
  return bool(jax.tree.leaves(state_shapes(method, task)))


def state_shapes(method: TestTimeMethod, task: Task) -> PyTree:
  """Shapes of a method's state; those of the task's arrays will do."""
  init = lambda arrays: method.init(
      arrays._replace(num_images=task.num_images))
  return jax.eval_shape(init, task._replace(num_images=0))


def logits(
    task: Task, features: Float[Array, "*n d"]) -> Float[Array, "*n k"]:
  """Scaled cosines of unit-norm image features with the classes."""
  return _cosines(task.logit_scale, features, task.text_features)


def from_logits(
    logits: Float[Array, "k"],
    info: Mapping[str, Float[Array, ""]] = {},
) -> Output:
  """The output of a method whose scores are logits."""
  return Output(logits, jax.nn.log_softmax(logits), dict(info), {})


@compiled
@precision.highest
def _cosines(scale, features, text_features):
  return scale * features @ text_features.T


def _no_state(task):
  del task
  return ()


@precision.highest
def _stateless(task, state, views, *, step):
  return state, step(task, views)
