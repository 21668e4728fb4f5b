"""What sharing the prompts' prefix and the first step saves per image.

From view features to logits with O-TPT, at the size of ViT-B/16's text tower:

  released    as the released codes do it: prompts of 77 positions, and for each
              image a forward, a backward and a forward pass
  prefix      the same passes over cropped prompts whose prefix runs once
  first step  ... with the first forward and its derivative shared by all images
  Jacobian    ... with that derivative as a matrix

All are equal up to rounding; that is checked before anything is timed.
"""

import argparse
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import agreement
from benchmarks import sizes
from benchmarks import timing
from jaxcal.adapt.prompt import engine
from jaxcal.adapt.prompt import family
from jaxcal.adapt.prompt import methods
from jaxcal.clip import prefix
from jaxcal.clip import prompts
from jaxcal.losses import entropy

_CONFIG = sizes.MODELS["ViT-B/16"]
_METHOD = methods.OTpt()
_LINEARISATIONS = {"first step": "vjp", "Jacobian": "jacobian"}
# Where the claims are made: CPU, and as many classes as the textures of DTD.
_CLAIMED_CLASSES = 47
_FLOORS = {"first step": 20, "Jacobian": 40}


def image_by_image(encode, context, views):
  """Logits [b k]; every image is a training problem of its own."""

  regularised = _METHOD.objective()

  def objective(context, views):
    features = encode(context)
    logits = sizes.LOGIT_SCALE * views @ features.T
    kept = entropy.confident_views(logits, _METHOD.selection_fraction)
    value = regularised.regulariser(features)
    uncertainty = entropy.marginal_entropy(logits, where=kept)
    return uncertainty + regularised.weighting(uncertainty, value) * value

  def one(views):
    gradient = jax.grad(objective)(context, views)
    optimiser = _METHOD.optimiser
    updates, _ = optimiser.update(gradient, optimiser.init(context), context)
    features = encode(optax.apply_updates(context, updates))
    return sizes.LOGIT_SCALE * views[0] @ features.T

  return jax.vmap(one)(views)


def prepare(encode, context, linearisation):
  """What the engine does once for all images."""
  prepared = engine.prepare(
      encode, context, sizes.LOGIT_SCALE, linearisation=linearisation)
  return family.share(encode, prepared, {"o_tpt": _METHOD})


def with_engine(shared, views):
  """Logits [b k] of the same images, from what is prepared."""
  return jax.vmap(family.adapt, (None, 0))(shared, views)["o_tpt"].logits


def float64_difference(num_classes=3):
  """Largest difference of a logit between the released way and the others."""
  with jax.enable_x64(True):
    params = sizes.text_params(_CONFIG, jnp.float64)
    bank = sizes.prompt_bank(num_classes)
    context = prompts.initial_context(params, bank)
    views = sizes.view_features(1, _CONFIG, jnp.float64)
    plain = prompts.context_encoder(_CONFIG, params, bank)
    encode = prefix.context_encoder(_CONFIG, params, bank)
    expected = jax.jit(image_by_image)(plain, context, views)
    others = [jax.jit(image_by_image)(encode, context, views)]
    for linearisation in _LINEARISATIONS.values():
      once = jax.jit(prepare, static_argnums=2)(encode, context, linearisation)
      others.append(jax.jit(with_engine)(once, views))
    return max(float(jnp.abs(other - expected).max()) for other in others)


def compare(num_classes, args):
  """Rows of the table, one per way."""
  ways, once = _programs(num_classes, args)
  memory = {name: timing.temporary_bytes(program)
            for name, (program, _) in ways.items()}
  if memory["released"] > 1e9 * args.max_gigabytes:
    print(f"{num_classes} classes: the released way is not run, it needs "
          f"{memory['released'] / 1e9:.3g} GB and may have "
          f"--max_gigabytes={args.max_gigabytes:g}")
    del ways["released"]
  calls = {name: functools.partial(program, *given)
           for name, (program, given) in ways.items()}
  logits = {name: np.asarray(call()) for name, call in calls.items()}
  agreed = {name: agreement.differences(one[:1], logits["released"])
            for name, one in logits.items() if "released" in logits}
  seconds = {name: one / len(logits[name])
             for name, one in timing.measure_in_turns(calls).items()}
  rows = []
  for name in memory:
    row = {"classes": num_classes, "way": name, "ms_per_image": None,
           "times_faster": None, "temporary_mb": memory[name] / 1e6,
           "times_less": memory["released"] / memory[name],
           "once_s": once.get(name), "once_in_images": None,
           "max_difference": None, "share_beyond": None}
    if name in seconds:
      row["ms_per_image"] = 1e3 * seconds[name]
    if name in once:
      row["once_in_images"] = once[name] / seconds[name]
    if name in agreed:
      row |= agreed[name]
      row["times_faster"] = seconds["released"] / seconds[name]
    rows.append(row)
  return rows


def _programs(num_classes, args):
  """By way, the program with its arguments; and what it costs once, seconds."""
  params = sizes.text_params(_CONFIG)
  bank = sizes.prompt_bank(num_classes)
  context = prompts.initial_context(params, bank)
  views = sizes.view_features(args.num_images, _CONFIG)
  plain = prompts.context_encoder(_CONFIG, params, bank)
  encode = prefix.context_encoder(_CONFIG, params, bank)
  # The released way takes one image at a time.
  calls = {"released": (image_by_image, plain, context, views[:1]),
           "prefix": (image_by_image, encode, context, views)}
  seconds = {}
  for name, linearisation in _LINEARISATIONS.items():
    if name == "Jacobian" and num_classes > args.max_jacobian_classes:
      print(f"{num_classes} classes: no Jacobian, it is for up to "
            f"--max_jacobian_classes={args.max_jacobian_classes}")
      continue
    program = timing.compiled(
        functools.partial(prepare, linearisation=linearisation),
        encode, context)
    once, seconds[name] = timing.timed(program, encode, context)
    calls[name] = with_engine, once, views
  return {name: (timing.compiled(function, *given), given)
          for name, (function, *given) in calls.items()}, seconds


def claims_of(rows):
  """Made on CPU, where the released way was measured at the claimed size."""
  if jax.default_backend() != "cpu":
    return []
  claims = []
  for row in rows:
    floor = _FLOORS.get(row["way"])
    measured = row["times_faster"] is not None
    if row["classes"] == _CLAIMED_CLASSES and floor and measured:
      name = f"{row['way']}, {_CLAIMED_CLASSES} classes: "
      claims += [
          timing.Claim(name + "times faster", row["times_faster"], floor),
          timing.Claim(name + "times less memory", row["times_less"], 10.0),
      ]
  return claims


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--num_classes", type=int, nargs="+", default=[10, 47])
  parser.add_argument("--num_images", type=int, default=8)
  parser.add_argument("--max_gigabytes", type=float, default=12.0)
  parser.add_argument("--max_jacobian_classes", type=int, default=50)
  args = parser.parse_args()
  exact = float64_difference()
  print(f"largest difference of a float64 logit: {exact:.1e}")
  if not exact <= 1e-10:
    raise AssertionError("the ways do not agree in float64")
  rows = []
  for num_classes in args.num_classes:
    rows += compare(num_classes, args)
  print(timing.table(rows))
  claims = claims_of(rows)
  timing.write("prefix_sharing", {
      "model": "ViT-B/16", "method": "o_tpt", "dtype": "float32",
      "num_views": sizes.NUM_VIEWS, "num_images": args.num_images,
      "float64_max_difference": exact, "tolerance": agreement.TOLERANCE,
      "rows": rows,
  }, claims)
  timing.finish(claims)


if __name__ == "__main__":
  main()
