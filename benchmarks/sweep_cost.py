"""What many methods and weights cost on the same images.

The entropy's gradient is taken once per image and the regularisers' once per
data set, so 4 methods with 10 weights each should cost hardly more than what
no sharing can save: one text forward per setting and image.
"""

import argparse

import jax
import jax.numpy as jnp

from benchmarks import agreement
from benchmarks import sizes
from benchmarks import timing
from jaxcal.adapt import methods as methods_lib
from jaxcal.adapt.prompt import engine
from jaxcal.adapt.prompt import family
from jaxcal.clip import prefix
from jaxcal.clip import prompts

_METHODS = ("c_tpt", "o_tpt", "a_tpt", "soc")
_WEIGHTS = (1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0, 50.0, 75.0, 100.0)
_NUM_SETTINGS = (1, 4, 10, 40)
_CEILING = 1.5


def all_settings():
  """By name; every method with one weight comes before the next weight."""
  return {
      f"{name} {weight:g}": methods_lib.method(name, weight=weight)
      for weight in _WEIGHTS for name in _METHODS}


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--num_classes", type=int, default=20)
  parser.add_argument("--num_images", type=int, default=8)
  args = parser.parse_args()

  config = sizes.MODELS["ViT-B/16"]
  params, bank = sizes.text_params(config), sizes.prompt_bank(args.num_classes)
  encode = prefix.context_encoder(config, params, bank)
  context = prompts.initial_context(params, bank)
  views = sizes.view_features(args.num_images, config)
  settings = all_settings()

  prepare_once = timing.compiled(engine.prepare, encode, context,
                                 jnp.asarray(sizes.LOGIT_SCALE))

  def prepare():
    prepared = prepare_once(encode, context, jnp.asarray(sizes.LOGIT_SCALE))
    return prepared, family.penalties(prepared, settings)

  preparation = timing.measure(prepare)
  prepared, penalties = prepare()

  contexts = context[None] + 5e-3 * jax.random.rademacher(
      jax.random.key(2), (args.num_images, *context.shape), context.dtype)
  forward = timing.compiled(jax.vmap(lambda encode, context: encode(context),
                                     (None, 0)), encode, contexts)
  one_forward = timing.measure(forward, encode, contexts)

  rows = []
  for number in _NUM_SETTINGS:
    some = {name: settings[name] for name in list(settings)[:number]}
    given = (family.Shared(
        encode, prepared, {name: penalties[name] for name in some}, some),
             views)
    program = timing.compiled(jax.vmap(family.adapt, (None, 0)), *given)
    agreed = _check(program(*given), *given)
    seconds = timing.measure(program, *given)
    least = preparation + number * one_forward
    rows.append({
        "settings": number, "seconds": seconds, "preparation_s": preparation,
        "forwards_s": number * one_forward,
        "ratio": (preparation + seconds) / least,
        "ms_per_image_and_setting": 1e3 * seconds / number / args.num_images,
        "temporary_mb": timing.temporary_bytes(program) / 1e6, **agreed})
  print(timing.table(rows))
  claims = [timing.Claim(
      f"{rows[-1]['settings']} settings: time over that of their forwards and "
      "one preparation", rows[-1]["ratio"], ceiling=_CEILING)]
  timing.write("sweep_cost", {
      "model": "ViT-B/16", "dtype": "float32", "methods": _METHODS,
      "weights": _WEIGHTS, "num_classes": args.num_classes,
      "num_images": args.num_images, "num_views": sizes.NUM_VIEWS,
      "rows": rows}, claims)
  timing.finish(claims)


def _check(adapted, shared, views):
  """The first and the last setting against the engine on its own."""

  @jax.jit
  def alone(encode, prepared, method, views):
    return engine.adapt(encode, prepared, views, method.objective(),
                        optimiser=method.optimiser).logits

  names = list(shared.methods)
  found = [
      agreement.differences(
          adapted[name].logits[:1],
          alone(shared.encode, shared.prepared, shared.methods[name],
                views[0])[None])
      for name in {names[0], names[-1]}]
  return {key: max(one[key] for one in found) for key in found[0]}


if __name__ == "__main__":
  main()
