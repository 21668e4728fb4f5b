"""What a step of few-shot training costs: CoOp, outliers, many classes.

At the size of ViT-B/16's text tower, with stored image features:

  plain     the class prompts in all 77 positions
  ours      the same prompts cropped, in groups, their prefix run once
  doubled   CoOp of twice as many prompts: the classes, and as many words
  outliers  CoOp with DOR, which draws as many words from a table in every step

and what a step on many classes needs when the memory is bounded. What is
compared is equal up to rounding; that is checked before anything is timed.
"""

import argparse
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import sizes
from benchmarks import timing
from jaxcal.clip import prefix
from jaxcal.clip import prompts as prompts_lib
from jaxcal.clip import towers
from jaxcal.tuning import coop
from jaxcal.tuning import dor
from jaxcal.tuning import method as method_lib
from jaxcal.tuning import outliers as outliers_lib
from jaxcal.tuning import training

_BATCH_SIZE = 32
_OUTLIER_WEIGHT = 8.0
# As in tuning.classes.prompts_of.
_MAX_GROUPS = 2

# Relative to the largest entry of what is compared.
_BOUNDS = {"float32": 1e-3, "float64": 1e-10}
_TIMES = 8.0
_BEYOND_DOUBLED = 1.3
_OF_BUDGET = 1.0


class Setup:
  """Model, images, method and optimiser that all steps share."""

  def __init__(self, config, dtype=jnp.float32):
    self.config = config
    self.params = sizes.text_params(config, dtype)
    self.method = coop.method(
        logit_scale=jnp.asarray(sizes.LOGIT_SCALE, dtype))
    self.optimiser = training.sgd(0.002)
    features = jax.random.normal(
        jax.random.key(1), (_BATCH_SIZE, config.projection), dtype)
    self.images = method_lib.Images(towers.normalise(features))
    self.words = prompts_lib.initial_context(
        self.params, sizes.prompt_bank(1))
    # Away from the words, where features deviate from their zero-shot ones.
    self.context = self.words + 0.02 * jax.random.normal(
        jax.random.key(2), self.words.shape, dtype)

  def plain(self, bank):
    return prompts_lib.context_encoder(self.config, self.params, bank)

  def ours(self, bank, *, max_groups=_MAX_GROUPS, classes_per_chunk=None):
    return prefix.context_encoder(
        self.config, self.params, bank, max_groups=max_groups,
        classes_per_chunk=classes_per_chunk)

  def coop(self, encode, num_prompts):
    """A step of CoOp, compiled, and its arguments."""
    # CoOp itself looks at no frozen features.
    none = jnp.zeros((num_prompts, self.config.projection))
    return self._compiled(step, self.method, _prompts(encode, none),
                          self._batch(num_prompts))

  def outliers(self, encode, num_prompts, table, rows):
    """The same with words drawn from a table."""
    none = jnp.zeros((num_prompts, self.config.projection))
    frozen = jax.jit(_features)(table, self.words)
    return self._compiled(
        outlier_step, dor.with_outliers(self.method, _OUTLIER_WEIGHT),
        _prompts(encode, none), self._batch(num_prompts),
        _prompts(table, frozen), rows)

  def _batch(self, num_classes):
    return method_lib.Batch(
        self.images, jnp.arange(_BATCH_SIZE) % num_classes)

  def _compiled(self, step, *given):
    params = {"context": self.context}
    given = params, self.optimiser.init(params), *given
    return timing.compiled(
        functools.partial(step, self.optimiser), *given), given


def step(optimiser, params, state, method, prompts, batch):
  """One step: what comes next, the gradient and the parts of the loss."""
  (_, parts), gradient = training.value_and_gradient(method)(
      params, prompts, batch)
  updates, state = optimiser.update(gradient, state, params)
  params = jax.tree.map(jnp.add, params, updates)
  return params, state, gradient, parts


def outlier_step(optimiser, params, state, method, prompts, batch, table, rows):
  """One step on words drawn from a table."""
  batch = batch._replace(outliers=dor.take(table, rows))
  return step(optimiser, params, state, method, prompts, batch)


def difference(got, expected, dtype="float32"):
  """The largest one, relative to the largest entry; checked."""
  got, expected = np.asarray(got), np.asarray(expected)
  relative = float(np.abs(got - expected).max() / np.abs(expected).max())
  if not relative <= _BOUNDS[dtype]:
    raise AssertionError(f"{dtype} results differ by {relative:.2g} of the "
                         f"largest entry, more than {_BOUNDS[dtype]:.0e}")
  return relative


def float64_difference(config, num_classes=3):
  """Between the gradients of a plain step and of ours."""
  with jax.enable_x64(True):
    setup = Setup(config, jnp.float64)
    bank = sizes.prompt_bank(num_classes, sizes.CLASS_NAMES)
    got, expected = (
        gradient_of(setup.coop(encode, num_classes))
        for encode in (setup.ours(bank), setup.plain(bank)))
    return difference(got, expected, "float64")


def gradient_of(compiled_step):
  program, given = compiled_step
  return program(*given)[2]["context"]


def compare(setup, args):
  """Rows of the table, one per way; the differences found."""
  number = args.num_classes
  classes = sizes.prompt_bank(number, sizes.CLASS_NAMES)
  words = sizes.prompt_bank(args.num_words, sizes.NOUNS)
  drawn = outliers_lib.shuffled(
      jax.random.key(3), 0, num_words=args.num_words, num_drawn=number)
  some_words = jax.tree.map(lambda x: x[drawn], words)
  doubled = jax.tree.map(
      lambda one, other: jnp.concatenate([one, other]), classes, some_words)
  programs = {
      "plain": setup.coop(setup.plain(classes), number),
      "ours": setup.coop(setup.ours(classes), number),
      "doubled": setup.coop(setup.ours(doubled), 2 * number),
      "outliers": setup.outliers(
          setup.ours(classes), number, setup.ours(
              words, max_groups=setup.config.context_length), drawn)}
  ours = gradient_of(programs["ours"])
  chunked = setup.coop(setup.ours(
      classes, classes_per_chunk=max(1, number // 5)), number)
  differences = {
      "gradient": difference(ours, gradient_of(programs["plain"])),
      "gradient in chunks": difference(ours, gradient_of(chunked)),
      "regulariser": _check_outliers(setup, programs["outliers"], some_words)}
  seconds = timing.measure_in_turns({
      name: functools.partial(program, *given)
      for name, (program, given) in programs.items()}, args.repeats)
  return [{
      "way": name,
      "prompts": number * (2 if name in ("doubled", "outliers") else 1),
      "seconds": seconds[name],
      "times_faster": seconds["plain"] / seconds[name],
      "of_doubled": seconds[name] / seconds["doubled"],
      "temporary_mb": timing.temporary_bytes(program) / 1e6}
      for name, (program, _) in programs.items()], differences


def _features(encode, context):
  return encode(context)


def _check_outliers(setup, compiled_step, bank):
  """The regulariser against features of the plain tower, in numpy."""
  program, given = compiled_step
  encode = timing.compiled(_features, setup.plain(bank), setup.context)
  tuned, frozen = (
      np.asarray(encode(setup.plain(bank), context), np.float64)
      for context in (setup.context, setup.words))
  cosines = (tuned * frozen).sum(axis=1) / (
      np.linalg.norm(tuned, axis=1) * np.linalg.norm(frozen, axis=1))
  return difference(program(*given)[3]["outliers"], 1 - cosines.mean())


def _prompts(encode, frozen):
  return method_lib.Prompts(encode, frozen, frozen, frozen)


def bounded(setup, args):
  """Memory of a step on many classes, by budget; compiled, not run."""
  bank = sizes.prompt_bank(args.many_classes, sizes.CLASS_NAMES)
  rows = []
  for gigabytes in (None, *args.gigabytes):
    size = gigabytes and prefix.classes_within(
        setup.config, bank, max_bytes=int(1e9 * gigabytes))
    program, _ = setup.coop(
        setup.ours(bank, classes_per_chunk=size), args.many_classes)
    needed = timing.temporary_bytes(program) / 1e9
    rows.append({
        "budget_gb": gigabytes, "classes_per_chunk": size,
        "temporary_gb": needed,
        "of_budget": gigabytes and needed / gigabytes,
        "times_less": rows[0]["temporary_gb"] / needed if rows else 1.0})
  return rows


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--num_classes", type=int, default=100)
  parser.add_argument("--num_words", type=int, default=1000,
                      help="in the table of outliers")
  parser.add_argument("--many_classes", type=int, default=1000)
  parser.add_argument("--gigabytes", type=float, nargs="+",
                      default=[0.5, 1.0, 2.0])
  parser.add_argument("--layers", type=int, default=12)
  parser.add_argument("--repeats", type=int, default=7)
  args = parser.parse_args()

  config = sizes.MODELS["ViT-B/16"]
  config = dataclasses.replace(
      config, text=dataclasses.replace(config.text, layers=args.layers))
  differences = {"gradient in float64": float64_difference(config)}
  setup = Setup(config)
  steps, found = compare(setup, args)
  differences |= found
  memory = bounded(setup, args)
  for name, value in differences.items():
    print(f"{name}: differs by {value:.1e} of the largest entry")
  print(timing.table(steps))
  print(timing.table(memory))
  seconds = {row["way"]: row["seconds"] for row in steps}
  claims = [
      timing.Claim("CoOp: times faster than in all positions",
                   seconds["plain"] / seconds["ours"], floor=_TIMES),
      timing.Claim("outliers: time over that of twice the prompts",
                   seconds["outliers"] / seconds["doubled"],
                   ceiling=_BEYOND_DOUBLED),
      *(timing.Claim(f"{args.many_classes} classes: memory over a budget of "
                     f"{row['budget_gb']:g} GB", row["of_budget"],
                     ceiling=_OF_BUDGET) for row in memory[1:])]
  timing.write("coop_step", {
      "model": "ViT-B/16", "dtype": "float32", "batch_size": _BATCH_SIZE,
      **vars(args), "differences": differences, "bounds": _BOUNDS,
      "steps": steps, "memory": memory}, claims)
  timing.finish(claims)


if __name__ == "__main__":
  main()
