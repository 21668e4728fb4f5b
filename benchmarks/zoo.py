"""Test-time methods on stored features: images per second, and beside loops.

Each method sees random features with a signal of the class, as stored views. A
stretch of the stream goes through it and through a loop in PyTorch that is
built as the released programs are (`zoo_loops`): first they are checked to say
the same, then timed in turns. The loop has one thread and then all of them, of
which the faster counts: beside other work that is one. Then the whole stream is
timed in one order and in several at once. Methods without a state see the
images in batches, and those that look at one view alone get that one.

  python -m benchmarks.zoo
  python -m benchmarks.zoo --num_images=500 --beside=100 --repeats=1
"""

import argparse
import functools

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks import sizes
from benchmarks import timing
from benchmarks import zoo_loops
from jaxcal.adapt import base
from jaxcal.adapt import methods
from jaxcal.adapt import run

_ONE_VIEW = ("tda", "onzeta", "ecalp")
_THREADS = sorted({1, torch.get_num_threads()})
_SAME_WORK = ("zero",)  # one product of matrices, for which a loop is no loss
_BATCH = 64  # images of methods without a state
_CHUNK = 1024  # images of a stream between two hands-over of the state
# Rounding in float32 moves scores; where it decides what a cache admits, those
# of a few images more than that.
_TOLERANCE, _SHARE = 2e-2, 0.99
_BLOCK = 500  # images that are drawn at a time


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--num_images", type=int, default=10_000)
  parser.add_argument("--num_classes", type=int, default=100)
  parser.add_argument("--width", type=int, default=512)
  parser.add_argument("--num_views", type=int, default=sizes.NUM_VIEWS)
  parser.add_argument("--num_orders", type=int, default=5)
  parser.add_argument(
      "--beside", type=int, default=1_000,
      help="images of the stretch that the loops see, too")
  parser.add_argument(
      "--most_of_ecalp", type=int, default=1_000,
      help="images that ecalp sees, whose time per image grows with them")
  parser.add_argument("--methods", default=",".join(zoo_loops.LOOPS))
  parser.add_argument("--repeats", type=int, default=3)
  args = parser.parse_args()

  text, images = _features(args)
  rows = [_measured(name, text, images, args)
          for name in args.methods.split(",")]
  print(timing.table(rows))
  claims = [timing.Claim(
      f"{row['method']}: times as fast as the loop", row["times_faster"],
      floor=1.0) for row in rows if row["method"] not in _SAME_WORK]
  timing.write("zoo", {
      "arguments": vars(args), "dtype": "float32",
      "torch": torch.__version__, "torch_threads": _THREADS,
      "rows": rows}, claims)
  timing.finish(claims)


def _features(args):
  """Unit-norm text features, and views that lie about those of their class."""
  rng = np.random.default_rng(0)
  unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
  draw = lambda *shape: rng.standard_normal(
      shape, np.float32) / np.float32(args.width) ** 0.5
  text = unit(draw(1, args.width) + draw(args.num_classes, args.width))
  images = np.empty(
      (args.num_images, args.num_views, args.width), np.float32)
  for first in range(0, args.num_images, _BLOCK):
    block = images[first:first + _BLOCK]
    own = text[rng.integers(args.num_classes, size=len(block))]
    # As with CLIP: cosines of about 0.25, and views unlike the whole image.
    clean = 0.2 * own + draw(len(block), args.width)
    block[:] = unit(clean[:, None] + 0.7 * draw(*block.shape))
    block[:, 0] = unit(clean)
  return text, images


def _measured(name, text, images, args):
  """A row of the table."""
  if name in _ONE_VIEW:
    images = images[:, :1]
  if name == "ecalp":
    images = images[:args.most_of_ecalp]
  numbers = methods.method(name)
  task = base.Task(jnp.asarray(text), jnp.float32(sizes.LOGIT_SCALE))
  rng = np.random.default_rng(1)
  orders = np.stack([rng.permutation(len(images))
                     for _ in range(args.num_orders)])
  stretch = images[np.sort(orders[0][:args.beside])]
  ours = functools.partial(_ours, numbers, task, stretch)
  loops = {f"loop {threads}": functools.partial(
      _theirs, name, text, stretch, threads) for threads in _THREADS}
  checked = _check(name, ours(), loops["loop 1"]())
  seconds = timing.measure_in_turns({"ours": ours, **loops}, args.repeats)
  of_loop = min(seconds[loop] for loop in loops)
  ways = {"one": lambda: _ours(numbers, task, images, orders[:1])}
  if base.has_state(numbers.method(), task):
    ways["all"] = lambda: _ours(numbers, task, images, orders)
  whole = timing.measure_in_turns(ways, args.repeats)
  together = whole.get("all")
  print(f"{name}: done", flush=True)
  return {
      "method": name, "images": len(images),
      "images_per_s": len(images) / whole["one"],
      f"images_per_s_in_{args.num_orders}_orders":
          together and args.num_orders * len(images) / together,
      f"cost_of_{args.num_orders}_orders":
          together and together / whole["one"],
      "beside": len(stretch),
      "images_per_s_beside": len(stretch) / seconds["ours"],
      "images_per_s_of_loop": len(stretch) / of_loop,
      "times_faster": of_loop / seconds["ours"], **checked}


def _ours(numbers, task, images, orders=None):
  """Scores of images in their order, or of streams of them in chunks."""
  method = numbers.method()
  if not base.has_state(method, task):
    return np.concatenate([
        np.asarray(_episodic(method, task, images[first:first + _BATCH]).scores)
        for first in range(0, len(images), _BATCH)])
  if orders is None:
    orders = np.arange(len(images))[None]
  chunks = run.stream_in_chunks(
      method, task, lambda rows: images[rows], orders, chunk_size=_CHUNK)
  scores = [np.asarray(chunk.outputs.scores) for chunk in chunks]
  return np.concatenate(scores, axis=1)[0]


_episodic = jax.jit(run.episodic)


def _theirs(name, text, images, threads):
  """Scores by the loop in PyTorch."""
  torch.set_num_threads(threads)
  with torch.no_grad():
    return zoo_loops.LOOPS[name](
        torch.from_numpy(text), sizes.LOGIT_SCALE, torch.from_numpy(images))


def _check(name, ours, theirs):
  """How far both agree.

  Raises:
    AssertionError: Another prediction, or other scores, for more than one in a
      hundred images.
  """
  theirs = theirs.numpy()
  apart = np.abs(ours - theirs).max(1) / np.maximum(1, np.abs(theirs).max(1))
  alike = np.mean(ours.argmax(1) == theirs.argmax(1))
  assert alike >= _SHARE, f"{name}: {alike:.1%} of the predictions are the same"
  close = np.mean(apart < _TOLERANCE)
  assert close >= _SHARE, f"{name}: {close:.1%} of the scores are the same"
  return {"same_predictions": float(alike), "largest_error": float(apart.max()),
          "median_error": float(np.median(apart))}


if __name__ == "__main__":
  main()
