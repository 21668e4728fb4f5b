"""What each test-time method costs per image, all of them on the same images.

Views of the testbed's images go through its image tower once, and every method
sees the same features; methods with a state see them in one order. A method is
timed from features to predictions in memory, after a run that compiles. One
that needs more of the images than features is timed from the images, less what
zero-shot takes from them.

  python -m benchmarks.method_cost
  python -m benchmarks.method_cost --model=testbed --num_images=64
"""

import argparse
from typing import Any

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


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--model", default="testbed")
  parser.add_argument("--data", default="shapes")
  parser.add_argument("--num_images", type=int, default=128)
  parser.add_argument("--num_views", type=int, default=64)
  parser.add_argument("--methods", default=",".join(methods_lib.METHODS))
  parser.add_argument("--repeats", type=int, default=3)
  args = parser.parse_args()

  model = tasks.load(args.model)
  images = image_sets.limit(sets.load(args.data), args.num_images)
  task = tasks.task_of(model, images.class_names)
  from_images = sources.from_images(
      model, images, recipe=extract.recipe_of(model, num_views=args.num_views))
  stored = sources.from_arrays(_features(from_images), labels=images.labels)
  names = args.methods.split(",")
  on_features = [name for name in names
                 if not base.image_blocks(methods_lib.method(name))]
  calls: dict[str, Any] = {
      name: _call(name, task, stored) for name in on_features}
  calls |= {name: _call(name, task, from_images)
            for name in names if name not in on_features}
  calls["images"] = _call("zero_shot", task, from_images)
  seconds = timing.measure_in_turns(calls, args.repeats)
  tower = seconds.pop("images") - seconds.get("zero_shot", 0)
  rows = []
  for name, taken in seconds.items():
    alone = taken if name in on_features else taken - tower
    rows.append({
        "method": name, "ms_per_image": 1e3 * alone / args.num_images,
        "share_of_image_tower": alone / tower})
  print(f"images to features: {1e3 * tower / args.num_images:.4g} ms per image")
  print(timing.table(rows))
  timing.write("method_cost", {
      "arguments": vars(args), "dtype": "float32",
      "num_classes": len(images.class_names),
      "ms_per_image_from_images_to_features": 1e3 * tower / args.num_images,
      "rows": rows})


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
  return lambda: [one.logits for _, one in run.iterate(methods, task, source)]


if __name__ == "__main__":
  main()
