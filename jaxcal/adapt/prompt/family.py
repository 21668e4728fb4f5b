"""Many prompt-tuning methods on the same images, as one test-time method.

For one data set and model, methods, weights, margins, learning rates and
decays differ only after the entropy's gradient at the initial context. That
gradient is taken once per image (and selection fraction), the regularisers'
once per data set; what is left for each method is one text forward per image,
all of them through one program. So the whole family is one `TestTimeMethod`,
whose step gives an output for each name.
"""

from collections.abc import Hashable, Iterable, Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxcal import precision
from jaxcal import pytrees
from jaxcal import stages
from jaxcal.adapt import base
from jaxcal.adapt import run
from jaxcal.adapt.prompt import bayesian
from jaxcal.adapt.prompt import engine
from jaxcal.adapt.prompt import methods as methods_lib
from jaxcal.typing import Array
from jaxcal.typing import Float
from jaxcal.typing import Pooled

Methods = Mapping[str, methods_lib.PromptMethod]


@pytrees.register_dataclass
@dataclasses.dataclass(frozen=True)
class Shared:
  """What all images of a data set share, for some methods.

  Attributes:
    encode: Text features as a function of the context.
    prepared: Features and derivative at the initial context.
    penalties: Regularisers there, by name.
    methods: Numbers of the methods, by name, from `resolved`.
    random_views: Whether outputs carry logits of the most confident random
      views, as evidence.
  """

  encode: base.Encode
  prepared: engine.Prepared
  penalties: Mapping[str, engine.Penalty]
  methods: Methods
  random_views: bool = dataclasses.field(
      default=False, metadata={"static": True})


def share(
    encode: base.Encode,
    prepared: engine.Prepared,
    methods: Methods,
    *,
    random_views: bool = False,
) -> Shared:
  """What is computed once per data set, besides `engine.prepare`.

  Raises:
    ValueError: See `resolved`.
  """
  return Shared(encode, prepared, *resolved(prepared, methods), random_views)


def family(
    shared: Shared, head: bayesian.Head | None = None
) -> base.TestTimeMethod:
  """All methods together; the step's output is a mapping from name to Output.

  Args:
    shared: Constants from `share`.
    head: Head of a posterior; the step then takes the pair of an image's view
      features and the clean view's `Pooled`, and each context also gives an
      output in each of `bayesian.FORMS`, see `names`.
  """
  if head is None:
    return base.episodic(_outputs, shared)
  return base.episodic(_outputs_and_uncertainty, shared, head)


def names(
    methods: Iterable[str], *, with_posterior: bool = False
) -> dict[str, stages.Stages]:
  """Names of the family's outputs, and the stages of each."""
  forms = [None, *bayesian.FORMS] if with_posterior else [None]
  every = [stages.Stages(name, posterior=form)
           for name in methods for form in forms]
  return {one.label: one for one in every}


def resolved(
    prepared: engine.Prepared, methods: Methods
) -> tuple[
    dict[str, engine.Penalty], dict[str, methods_lib.PromptMethod]]:
  """`penalties`, and the methods as `methods.resolved` has them, by name.

  Raises:
    ValueError: A weight or margin that these classes do not have, see there.
  """
  methods = {name: method.of_classes(prepared.text_features)
             for name, method in methods.items()}
  found = penalties(prepared, methods)
  return found, methods | {
      name: methods[name].of_context(prepared, penalty)
      for name, penalty in found.items()}


def penalties(
    prepared: engine.Prepared, methods: Methods
) -> dict[str, engine.Penalty]:
  """Regularisers at the initial context, once per data set.

  Weights do not enter, so methods that differ in them alone share the work.
  Those that take no step have none.
  """
  different: list[engine.Objective] = []
  known: dict[Hashable, int] = {}
  place_of: dict[str, int] = {}
  for name, method in methods.items():
    objective = method.objective()
    if not objective.num_steps:
      continue
    leaves, structure = jax.tree.flatten(objective.regulariser)
    key = (structure, *(
        id(leaf) if jnp.ndim(leaf) or isinstance(leaf, jax.core.Tracer) else
        float(leaf) for leaf in leaves))
    if key not in known:
      known[key] = len(different)
      different.append(objective)
    place_of[name] = known[key]
  if not different:
    return {}
  found = _penalties(prepared, different)
  return {name: jax.tree.map(lambda x: x[number], found)
          for name, number in place_of.items()}


def adapt(
    shared: Shared, views: Float[Array, "v d"]
) -> dict[str, engine.Adapted]:
  """What `engine.adapt` gives for one image, for every method.

  One program encodes all methods one after the other, so that neither compile
  time nor memory grows with their number.

  Args:
    shared: Constants from `share`.
    views: Unit-norm features of the views; row 0 is the clean view.

  Raises:
    ValueError: See `engine.begin`.
  """
  encode, prepared, methods = shared.encode, shared.prepared, shared.methods
  # As many as enter the entropy.
  num_random = lambda method: shared.random_views and int(
      len(views) * method.selection_fraction)
  objectives = {name: method.objective() for name, method in methods.items()}
  result = {
      name: engine.untuned(
          prepared.text_features, prepared.logit_scale, views,
          method.selection_fraction, weights=method.view_weights(views),
          num_random=num_random(method))._replace(context=prepared.context)
      for name, method in methods.items() if not objectives[name].num_steps}
  tuning = [name for name in methods if objectives[name].num_steps]
  kind_of = lambda name: (
      methods[name].selection_fraction, objectives[name].of_views)
  starts = {kind: engine.begin(prepared, views, *kind) for kind in sorted(
      _by(kind_of, tuning), key=lambda kind: kind[0])}
  start_of = lambda name: starts[kind_of(name)]
  tuned: dict[str, engine.Tuned] = {}
  for group in _by(
      lambda name: jax.tree.structure(methods[name]), tuning).values():
    together = _tune(shared, views, start_of(group[0]), group)
    tuned |= {name: jax.tree.map(lambda x, i=i: x[i], together)
              for i, name in enumerate(group)}
  predicted_like = lambda name: (
      num_random(methods[name]), methods[name].predicts_clean_view)
  for (number, _), names in _by(predicted_like, tuning).items():
    adapted = jax.lax.map(
        lambda given, n=number: engine.predict(
            encode, prepared, views, *given, num_random=n),
        run.stack([(start_of(name)._replace(judged=None), tuned[name],
                    methods[name].view_weights(views)) for name in names]))
    result |= {name: jax.tree.map(lambda x, i=i: x[i], adapted)
               for i, name in enumerate(names)}
  return {name: result[name] for name in methods}


def _outputs(shared, task, views):
  del task
  return {name: methods_lib.output(one)
          for name, one in adapt(shared, views).items()}


def _outputs_and_uncertainty(
    shared: Shared,
    head: bayesian.Head,
    task: base.Task,
    views_and_pooled: tuple[Float[Array, "v d"], Pooled],
) -> dict[str, base.Output]:
  """The outputs, and what the posterior makes of the same contexts."""
  del task
  views, pooled = views_and_pooled
  adapted = adapt(shared, views)
  outputs = {name: methods_lib.output(one) for name, one in adapted.items()}
  encode: Any = shared.encode  # one that also gives what is not yet projected
  embed_texts = lambda context: bayesian.embed(
      encode.pooled(context), head.text, head.posterior.text)
  image = bayesian.embed(pooled.activations, head.image, head.posterior.image,
                         pooled.residual)
  found: dict[str, dict[
      str, tuple[Float[Array, "k"], bayesian.Uncertainty]]] = {}
  tuned = [name for name, method in shared.methods.items()
           if method.objective().num_steps]
  if len(tuned) < len(adapted):
    by_form = bayesian.predict(
        head, embed_texts(shared.prepared.context), image)
    found |= {name: by_form for name in adapted if name not in tuned}
  if tuned:
    # One method after the other, as in `adapt`.
    by_form = jax.lax.map(
        lambda context: bayesian.predict(head, embed_texts(context), image),
        jnp.stack([
            adapted[name].context for name in tuned]))  # type: ignore[misc]
    found |= {name: jax.tree.map(lambda x, i=i: x[i], by_form)
              for i, name in enumerate(tuned)}
  return outputs | {
      stages.Stages(name, posterior=form).label: base.from_logits(
          logits, {**outputs[name].info, **uncertainty._asdict()})
      for name, by_form in found.items()
      for form, (logits, uncertainty) in by_form.items()}


@jax.jit  # step by step, there would be a hundred small programs to compile
@precision.highest
def _penalties(prepared, objectives):
  values, cotangents = zip(*(
      engine.regulariser_at(prepared.text_features, objective)
      for objective in objectives))
  return engine.Penalty(jnp.stack(values), jax.lax.map(
      prepared.pull_back, jnp.stack(cotangents)))


def _by(key, names):
  """Names of methods, by what a function makes of each."""
  groups: dict[Hashable, list[str]] = {}
  for name in names:
    groups.setdefault(key(name), []).append(name)
  return groups


def _tune(shared, views, start, names):
  """Contexts [s m w] of one image, for methods that differ in numbers alone."""

  def under(given):
    penalty, method = given
    return engine.tune(shared.encode, shared.prepared, views, start, penalty,
                       method.objective(), method.optimiser)

  return jax.lax.map(under, run.stack(
      [(shared.penalties[name], shared.methods[name]) for name in names]))
