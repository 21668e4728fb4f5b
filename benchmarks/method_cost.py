"""What each test-time method costs per image, all of them on the same images.

Views of the testbed's images go through its image tower once, and every method
sees the same features; methods with a state see them in one order. A method is
timed from features to predictions in memory, on all of the images and on a
quarter of them, after runs that compile: what the other three quarters take is
theirs alone. A method that needs more of the images than features is timed from
the images, less what zero-shot takes from them. Times are those of the
processor, all threads added up, which other work on the machine moves little.

  python -m benchmarks.method_cost
  python -m benchmarks.method_cost --model=testbed --num_images=64
"""

import argparse
import time

import jax
import numpy as np

from benchmarks import timing
from jaxcal import run
from jaxcal import sharding
from jaxcal import tasks
from jaxcal.adapt import base
from jaxcal.adapt import methods as methods_lib
from jaxcal.data import image_set as image_sets
from jaxcal.features import extract
from jaxcal.features import sources
from jaxcal.testbed import sets

_BATCH = 16  # images of all methods; whole batches of both sizes


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--model", default="testbed")
  parser.add_argument("--data", default="shapes")
  parser.add_argument("--num_images", type=int, default=128)
  parser.add_argument("--num_views", type=int, default=64)
  parser.add_argument("--methods", default=",".join(methods_lib.METHODS))
  parser.add_argument("--repeats", type=int, default=3)
  args = parser.parse_args()

  if args.num_images % (4 * _BATCH):
    parser.error(f"--num_images must be a multiple of {4 * _BATCH}: batches "
                 "that are not full take as long as full ones")
  model = tasks.load(args.model)
  images = image_sets.limit(sets.load(args.data), args.num_images)
  task = tasks.task_of(model, images.class_names)
  names = args.methods.split(",")
  deep = [name for name in names
          if base.image_blocks(methods_lib.method(name))]
  few = args.num_images // 4
  by_size = []
  for size in (few, args.num_images):
    some = image_sets.take(images, range(size))
    source = sources.from_images(model, some, recipe=extract.recipe_of(
        model, num_views=args.num_views))
    stored = sources.from_arrays(_features(source), labels=some.labels)
    by_size.append({
        "zero_shot": _call("zero_shot", task, stored),
        "images": _call("zero_shot", task, source),
        **{name: _call(name, task, source if name in deep else stored)
           for name in names}})
  on_few, on_all = (_seconds(calls, args.repeats) for calls in by_size)
  per_image = {name: 1e3 * (on_all[name] - on_few[name]) /
               (args.num_images - few) for name in on_all}
  tower = per_image["images"] - per_image["zero_shot"]
  rows = []
  for name in names:
    own = per_image[name] - (tower if name in deep else 0)
    rows.append({"method": name, "ms_per_image": own,
                 "share_of_image_tower": own / tower})
  print(f"images to features: {tower:.4g} ms per image")
  print(timing.table(rows))
  timing.write("method_cost", {
      "arguments": vars(args), "dtype": "float32",
      "num_classes": len(images.class_names),
      "ms_per_image_from_images_to_features": tower, "rows": rows})


def _seconds(calls, repeats):
  """Of the processor, the least of several turns, after one to warm up."""
  found: dict[str, float] = dict.fromkeys(calls, float("inf"))
  for turn in range(repeats + 1):
    for name, call in calls.items():
      start = time.process_time()
      call()
      if turn:
        found[name] = min(found[name], time.process_time() - start)
  return found


def _features(source):
  """View features of all images, in their order."""
  mesh = sharding.data_mesh(jax.devices()[:1])
  positions = np.array_split(np.arange(len(source.ids)),
                             max(1, len(source.ids) // 8))
  return np.concatenate([
      np.asarray(batch.view_features)[batch.mask]
      for batch in source.batches(positions, mesh, 9, None)])


def _call(name, task, source):
  methods = {name: methods_lib.method(name)}
  return lambda: [one.logits for _, one in run.iterate(
      methods, task, source, batch_size=_BATCH)]


if __name__ == "__main__":
  main()
