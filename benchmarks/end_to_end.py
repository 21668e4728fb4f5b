"""From image files to Predictions: images per second, and where time goes.

The stages are run apart from each other on the same batches, each waited for;
the whole is `run.iterate`, in which reading images overlaps with the
device's work. What the stages give one after the other is checked to be what
the whole gives.
"""

import argparse
import functools
import io
import pathlib
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from benchmarks import agreement
from benchmarks import sizes
from benchmarks import timing
from jaxcal import precision
from jaxcal import predictions
from jaxcal import run
from jaxcal import tasks
from jaxcal.adapt import base
from jaxcal.adapt import methods as methods_lib
from jaxcal.adapt.prompt import family
from jaxcal.clip import checkpoint
from jaxcal.clip import prefix
from jaxcal.clip import preprocess
from jaxcal.clip import prompts
from jaxcal.data import decoding
from jaxcal.data import image_set as image_sets
from jaxcal.data import pipeline
from jaxcal.data import views
from jaxcal.features import encoding
from jaxcal.features import sources
from jaxcal.testbed import sets
from jaxcal.testbed import shipped

_METHODS = ("zero_shot", "tpt", "c_tpt", "o_tpt", "soc")
_PHOTO = (375, 500)  # height and width, as photographs of the benchmark sets


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
      "--model", choices=("testbed", *sizes.MODELS), default="testbed")
  parser.add_argument("--num_images", type=int, default=64)
  parser.add_argument("--num_classes", type=int, default=47,
                      help="of the models with random weights")
  parser.add_argument("--batch_size", type=int, default=8)
  parser.add_argument(
      "--image_precision", choices=precision.PRECISIONS, default="highest")
  args = parser.parse_args()

  found = record(**vars(args))
  print(timing.table(found["rows"]))
  print(f"largest difference of logits: {found['max_difference']:.2g}")
  timing.write(
      f"end_to_end_{args.model.replace('/', '')}_{args.image_precision}", found)


def record(
    *, model: str, num_images: int, num_classes: int, batch_size: int,
    image_precision: str,
) -> dict[str, Any]:
  """Rows of the table, and the first batch's logits both ways.

  Args:
    model: Name of a model, see the flags.
    num_images: Number of images.
    num_classes: Number of classes, of models with random weights.
    batch_size: Images at a time.
    image_precision: Precision of the image tower.
  """
  asked = dict(model=model, num_images=num_images, num_classes=num_classes,
               batch_size=batch_size, image_precision=image_precision)
  args = argparse.Namespace(**asked)
  with tempfile.TemporaryDirectory() as folder:
    rows, stages, whole = _measure(args, *_workload(args, pathlib.Path(folder)))
  return {**asked, "num_views": sizes.NUM_VIEWS, "methods": _METHODS,
          **agreement.differences(
              stages, whole, half=image_precision == "bfloat16"),
          "rows": rows}


def _workload(args, folder):
  """The model, its images and its prompts as a function of their context."""
  if args.model == "testbed":
    model = checkpoint.load(shipped.folder())
    images = image_sets.limit(sets.load("shades"), args.num_images)
    task = tasks.unencoded_task(model, images.class_names)
  else:
    config = sizes.MODELS[args.model]
    params = sizes.text_params(config) | sizes.image_params(config)
    params["logit_scale"] = jnp.log(sizes.LOGIT_SCALE)
    model = checkpoint.Model(
        config, params, None, preprocess.Preprocess(224, 224), args.model, "")
    images = _photos(args.num_images, args.num_classes, folder)
    bank = sizes.prompt_bank(args.num_classes)
    task = base.Task(
        None, jnp.asarray(sizes.LOGIT_SCALE),
        prefix.context_encoder(config, params, bank),
        prompts.initial_context(params, bank))
  return checkpoint.in_precision(
      model, image=args.image_precision, text="highest"), images, task


def _photos(number, num_classes, folder):
  """JPEG files with the spectrum of photographs, one class after another."""
  rng = np.random.default_rng(0)
  for index in range(number):
    coarse = rng.integers(0, 256, (12, 16, 3), np.uint8)
    image = Image.fromarray(coarse).resize(_PHOTO[::-1], Image.BICUBIC)
    content = io.BytesIO()
    image.save(content, "JPEG", quality=90)
    (folder / f"{index:05d}.jpg").write_bytes(content.getvalue())
  return image_sets.ImageSet(
      "photos", tuple(f"class {i}" for i in range(num_classes)),
      tuple(f"{index:05d}.jpg" for index in range(number)),
      np.arange(number, dtype=np.int32) % num_classes,
      lambda position: decoding.decode(folder / f"{position:05d}.jpg"))


def _measure(args, model, images, task):
  """Rows of the table, and the first batch's logits both ways."""
  recipe = views.Recipe(
      size=model.preprocess.crop, resize=model.preprocess.resize,
      offset=model.preprocess.offset, num_views=sizes.NUM_VIEWS)
  methods = {name: methods_lib.method(name) for name in _METHODS}
  chunks = [range(first, min(first + args.batch_size, len(images.ids)))
            for first in range(0, len(images.ids), args.batch_size)]
  decode = lambda: list(pipeline.batches(
      images, chunks, seed=0, batch_size=args.batch_size, num_threads=4))
  batches, decoding = timing.timed(decode)
  cut = jax.jit(jax.vmap(functools.partial(views.make_views, recipe=recipe)))
  see = jax.jit(lambda params, pixels: encoding.encode_views(
      model.config, model.preprocess, params,
      pixels.reshape(-1, *pixels.shape[2:]))[0].reshape(*pixels.shape[:2], -1))
  adapt = jax.jit(jax.vmap(family.adapt, (None, 0)))
  prepare = lambda: tasks.prepare(task, num_images=len(images.ids))
  shared = family.share(task.encode, prepare(), methods)

  def stage(function, inputs):
    jax.block_until_ready(function(inputs[0]))  # compiles
    return timing.timed(lambda: [jax.block_until_ready(function(one))
                                 for one in inputs])

  pixels, cutting = stage(
      lambda batch: cut(batch.canvases, batch.sizes, batch.keys), batches)
  features, seeing = stage(lambda batch: see(model.params, batch), pixels)
  adapted, adapting = stage(lambda batch: adapt(shared, batch), features)
  _, preparing = timing.timed(prepare)
  whole_run = lambda: dict(run.iterate(
      methods, task, sources.from_images(model, images, recipe=recipe),
      batch_size=args.batch_size, devices=jax.devices()[:1]))
  whole_run()
  whole, total = timing.timed(whole_run)
  writing = timing.timed(lambda: _write(whole))[1]
  names = ("read and decode", "views", "image tower",
           f"tune and predict, {len(_METHODS)} methods", "write predictions")
  seconds = (decoding, cutting, seeing, adapting, writing)
  rows = [_row(name, value, len(images.ids), sum(seconds))
          for name, value in zip(names, seconds)]
  rows.append(_row("the stages together", sum(seconds), len(images.ids),
                   sum(seconds)))
  rows.append(_row("prepare, once", preparing, len(images.ids), sum(seconds)))
  rows.append(_row("the whole, tracing included", total, len(images.ids),
                   sum(seconds)))
  first = slice(0, len(chunks[0]))
  return (rows, adapted[0]["soc"].logits[first],
          jnp.asarray(whole["soc"].logits[first]))


def _row(stage, seconds, num_images, total):
  return {"stage": stage, "seconds": seconds,
          "ms_per_image": 1e3 * seconds / num_images,
          "images_per_s": num_images / seconds, "share": seconds / total}


def _write(whole):
  with tempfile.TemporaryDirectory() as folder:
    for name, one in whole.items():
      predictions.save(one, pathlib.Path(folder, name))


if __name__ == "__main__":
  main()
