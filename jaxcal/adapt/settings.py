"""Many settings on the same images: what they have in common is done once.

For one data set and model, methods, weights, margins, learning rates and
decays differ only after the entropy's gradient at the initial context. That
gradient is taken once per image (and selection fraction), the regularisers'
once per data set; what is left for each setting is one text forward per image,
all of them through one program.
"""

from collections.abc import Mapping
import dataclasses

import jax
import jax.numpy as jnp
import optax

from jaxcal.adapt import engine
from jaxcal.adapt import objectives
from jaxcal.typing import Array
from jaxcal.typing import Float
from jaxcal.typing import PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Setting:
  """A method and the numbers it is run with.

  Attributes:
    method: From `objectives`.
    learning_rate: Of AdamW.
    weight_decay: Of AdamW.
    selection_fraction: See `engine.begin`.
  """

  method: objectives.Method
  learning_rate: float = 5e-3
  weight_decay: float = 1e-2
  selection_fraction: float = dataclasses.field(
      default=0.1, metadata={"static": True})

  @property
  def optimizer(self) -> optax.GradientTransformation:
    return engine.default_optimizer(self.learning_rate, self.weight_decay)


def penalties(
    prepared: engine.Prepared,
    settings: Mapping[str, Setting],
) -> dict[str, engine.Penalty]:
  """Every setting's regulariser at the initial context; once per data set.

  Weights do not enter, so settings that differ in them alone share the work.
  """
  values, cotangents, place = [], [], {}
  for name, setting in settings.items():
    leaves, structure = jax.tree.flatten(setting.method.regulariser)
    key = (structure, *(
        id(leaf) if jnp.ndim(leaf) else float(leaf) for leaf in leaves))
    if key not in place:
      place[key] = len(values)
      value, cotangent = engine.regulariser_at(
          prepared.text_features, setting.method)
      values.append(value)
      cotangents.append(cotangent)
    place[name] = place[key]
  gradients = _pull_all_back(prepared.pull_back, jnp.stack(cotangents))
  return {name: engine.Penalty(values[place[name]], gradients[place[name]])
          for name in settings}


def answer(
    encode: engine.Encode,
    prepared: engine.Prepared,
    penalties: Mapping[str, engine.Penalty],
    settings: Mapping[str, Setting],
    views: Float[Array, "b v d"],
) -> dict[str, engine.Adapted]:
  """What `engine.adapt` answers for every image under every setting.

  For `jit`, in which one program encodes all settings one after the other, so
  that neither compile time nor memory grows with their number.

  Args:
    encode: As in `engine.prepare`.
    prepared: What `engine.prepare` returned.
    penalties: From the function of that name, for the same settings.
    settings: By a name each.
    views: Unit-norm features of the views; row 0 is the clean view.

  Returns:
    By name, with a leading axis of images.

  Raises:
    ValueError: see `engine.begin`.
  """
  fractions = {setting.selection_fraction for setting in settings.values()}
  starts = {
      fraction: jax.vmap(lambda v, f=fraction: engine.begin(prepared, v, f))(
          views) for fraction in sorted(fractions)}
  start_of = lambda name: starts[settings[name].selection_fraction]
  result, tuned = {}, {}
  for names in _alike(settings).values():
    if not settings[names[0]].method.num_steps:
      for name in names:
        result[name] = jax.vmap(engine.zero_shot, (None, 0, 0))(
            prepared, views, start_of(name))
      continue
    start = start_of(names[0])
    together = _tune(encode, prepared, views, start, *_stacked(
        [(penalties[name], settings[name]) for name in names]))
    tuned |= {name: jax.tree.map(lambda x, i=i: x[i], together)
              for i, name in enumerate(names)}
  if tuned:
    answers = jax.lax.map(
        lambda given: jax.vmap(engine.answer, (None, None, 0, 0, 0))(
            encode, prepared, views, *given),
        _stacked([(start_of(name), one) for name, one in tuned.items()]))
    result |= {name: jax.tree.map(lambda x, i=i: x[i], answers)
               for i, name in enumerate(tuned)}
  return {name: result[name] for name in settings}


@jax.jit
def _pull_all_back(pull_back, cotangents):
  return jax.lax.map(pull_back, cotangents)


def _alike(settings) -> dict[PyTree, list[str]]:
  """Names of the settings that differ in numbers alone."""
  groups = {}
  for name, setting in settings.items():
    groups.setdefault(jax.tree.structure(setting), []).append(name)
  return groups


def _tune(encode, prepared, views, start, penalty, setting):
  """Contexts of every image [s b m w], for stacked penalties and settings."""

  def under(given):
    penalty, setting = given
    return jax.vmap(
        lambda v, s: engine.tune(encode, prepared, v, s, penalty,
                                 setting.method, setting.optimizer))(
                                     views, start)

  return jax.lax.map(under, (penalty, setting))


def _stacked(trees):
  return jax.tree.map(lambda *leaves: jnp.stack(
      [jnp.asarray(leaf) for leaf in leaves]), *trees)
