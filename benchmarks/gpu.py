"""All that is to be measured on a GPU, by one command in under eight minutes.

  pip install '.[cuda]'
  python -m benchmarks.gpu

Parts run one after the other, each in a process of its own and with a time
limit of its own; the record is written after each, so that one that fails or
is slow loses nothing but itself. `--tiny` takes sizes with which all of it
runs on a CPU in some minutes, to see that it works.
"""

import argparse
from collections.abc import Callable, Mapping
import functools
import json
import os
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import end_to_end
from benchmarks import image_tower
from benchmarks import prefix_sharing
from benchmarks import processes
from benchmarks import sizes
from benchmarks import timing
from benchmarks import torch_loop
from jaxcal import precision
from jaxcal import run
from jaxcal import tasks
from jaxcal.adapt import methods as methods_lib
from jaxcal.clip import prefix
from jaxcal.clip import prompts
from jaxcal.clip import towers
from jaxcal.data import image_set as image_sets
from jaxcal.metrics import calibration
from jaxcal.testbed import sets

_MODEL = "ViT-B/16"  # of texts and of PyTorch
_TOWERS = (_MODEL, "ViT-L/14", "RN50")
_CLASSES = (47, 200, 1000)
_TUNING = ("zero_shot", "soc")
# Precisions of the image and of the text tower.
_SIDES = (("highest", "highest"), ("default", "default"),
          ("bfloat16", "highest"))
_MAX_BYTES = 2**32
# Of the largest difference of a logit at "default", that at "highest": both
# against a CPU. One pass of TensorFloat-32 has a thousandth of the digits.
_OF_DEFAULT = 0.25


class Size(NamedTuple):
  """How much is measured.

  Attributes:
    models: Models by name.
    batch: Images at a time in the image towers.
    matrix: Side of the matrices whose product is the peak.
    num_classes: Numbers of classes, by those that the parts are called after.
    num_images: Images of the text program and of PyTorch.
    end_to_end: Arguments of `end_to_end.record`.
    set_size: Images of the shipped model's set.
    patience: Factor of all time limits.
  """

  models: Mapping[str, towers.ClipConfig]
  batch: int
  matrix: int
  num_classes: Mapping[int, int]
  num_images: int
  end_to_end: Mapping[str, Any]
  set_size: int
  patience: float


FULL = Size(
    {name: sizes.MODELS_BY_TOWER[name] for name in _TOWERS}, batch=1024,
    matrix=8192, num_classes={number: number for number in _CLASSES},
    num_images=8, end_to_end=dict(
        model=_MODEL, num_images=64, num_classes=47, batch_size=8,
        image_precision="bfloat16"), set_size=100, patience=1)
TINY = Size(
    {name: sizes.small(sizes.MODELS_BY_TOWER[name]) for name in _TOWERS},
    batch=2, matrix=128, num_classes=dict(zip(_CLASSES, (3, 4, 5))),
    num_images=2, end_to_end=dict(
        model="testbed", num_images=2, num_classes=3, batch_size=2,
        image_precision="highest"), set_size=4, patience=10)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--tiny", action="store_true",
                      help="small sizes, also for a CPU")
  parser.add_argument("--part", nargs="+", choices=list(PARTS),
                      default=list(PARTS))
  parser.add_argument("--patience", type=float, default=1,
                      help="factor of all time limits")
  parser.add_argument("--output", type=pathlib.Path, help="file that is "
                      "written; benchmarks/results/accelerator_BACKEND.json if "
                      "not given")
  args = parser.parse_args()
  patience = args.patience * (TINY if args.tiny else FULL).patience
  first = processes.alone(
      _environment, args.tiny, limit=patience * PARTS["devices"].limit)
  if first.error is not None:
    parser.error(first.error)
  backend = first.result["environment"]["backend"]
  path = args.output or timing.path_of(
      "accelerator_tiny" if args.tiny else "accelerator", backend)
  found = _stored(path, first.result["environment"])
  for name in args.part:
    outcome = processes.alone(
        _part, name, args.tiny, limit=patience * PARTS[name].limit)
    found[name] = {"error": outcome.error, "seconds": outcome.seconds,
                   **(outcome.result or {"claims": []})}
    _show(name, found[name])
    path.write_text(json.dumps({
        **first.result, "tiny": args.tiny,
        "parts": {one: found[one] for one in PARTS if one in found}},
                               indent=1) + "\n", "utf-8")
  failed = [name for name, one in found.items() if one["error"] is not None]
  claims = [timing.Claim(**{key: value for key, value in claim.items()
                            if key != "holds"})
            for one in found.values() for claim in one["claims"]]
  timing.finish([*claims, timing.Claim(
      f"parts that failed: {', '.join(failed) or 'none'}", len(failed),
      ceiling=0)])


def _stored(path, environment):
  """Parts that were measured before, with the same code on the same device."""
  if not path.exists():
    return {}
  record = json.loads(path.read_text("utf-8"))
  same = all(record["environment"][name] == environment[name]
             for name in ("source", "jax", "jaxlib", "device"))
  return record["parts"] if same else {}


def _show(name, one):
  print(f"\n{name}, {one['seconds']:.0f} s"
        f"{': ' + one['error'] if one['error'] else ''}", flush=True)
  if one.get("rows"):
    print(timing.table(one["rows"]), flush=True)


def _environment(tiny):
  """Devices and versions; refuses to measure a CPU at full size."""
  if jax.default_backend() == "cpu" and not tiny:
    raise ValueError(
        "there is no accelerator here that JAX knows (pip install '.[cuda]'); "
        "on a CPU try --tiny")
  return {"environment": timing.environment()}


def _part(name, tiny):
  rows, claims = PARTS[name].measure(TINY if tiny else FULL)
  return {"rows": rows, "claims": [claim.describe() for claim in claims]}


def _devices(size):
  """Every device, with the peaks of its matrix products."""
  peaks = {f"{one}_tflop_per_s": image_tower.peak(one, size.matrix) / 1e12
           for one in precision.PRECISIONS}
  return [{
      "device": str(device), "kind": device.device_kind,
      "memory_gb": (device.memory_stats() or {}).get("bytes_limit", 0) / 1e9,
      **peaks} for device in jax.devices()], []


def _precision(size):
  """Logits and ECE of the shipped model at each precision, against a CPU."""
  images = image_sets.limit(sets.load("shades"), size.set_size)
  of = functools.partial(_predicted, images)
  expected = of("highest", "highest", jax.devices("cpu")[:1])
  rows = []
  for sides in _SIDES:
    found = of(*sides, jax.devices()[:1])
    rows += [{
        "image": sides[0], "text": sides[1], "method": name,
        "largest_difference": float(
            np.abs(one.logits - expected[name].logits).max()),
        "other_predictions": int((
            one.logits.argmax(-1) != expected[name].logits.argmax(-1)).sum()),
        "accuracy": float(_hits(one).mean()), "ece": _ece(one),
        "ece_on_cpu": _ece(expected[name])} for name, one in found.items()]
  return rows, _claims_on_precision(rows)


def _predicted(images, image, text, devices):
  with jax.default_device(devices[0]):
    model = tasks.load("testbed", image_precision=image, text_precision=text)
    methods = {name: methods_lib.method(name) for name in _TUNING}
    return run.predict(
        methods, tasks.unencoded_task(model, images.class_names), images,
        model=model, devices=devices)


def _hits(found):
  return found.logits.argmax(-1) == found.labels


def _ece(found):
  confidence = jax.nn.softmax(jnp.asarray(found.logits)).max(-1)
  return float(calibration.expected_calibration_error(confidence, _hits(found)))


def _claims_on_precision(rows):
  """That "highest" is more exact than "default", where these differ."""
  if jax.default_backend() == "cpu":
    return []
  largest = {row["image"]: row["largest_difference"] for row in rows
             if row["method"] == "zero_shot" and row["image"] == row["text"]}
  return [timing.Claim(
      "zero-shot logits against a CPU: difference at highest, in those at "
      "default", largest["highest"] / largest["default"],
      ceiling=_OF_DEFAULT)]


def _image_tower(name, size):
  """Share of the measured peak, see `image_tower`."""
  rows = image_tower.measured(
      {name: size.models[name]}, ("bfloat16", "highest"), size.batch,
      size.matrix)
  return rows, [] if size is TINY else image_tower.claims_of(rows)


def _end_to_end(size):
  """From files to predictions, stage by stage, see `end_to_end`."""
  return end_to_end.record(**size.end_to_end)["rows"], []


def _text(asked, size):
  """The text program: features, what is prepared once, and each image."""
  config, number = size.models[_MODEL], size.num_classes[asked]
  params, bank = sizes.text_params(config), sizes.prompt_bank(
      number, sizes.CLASS_NAMES)
  context = prompts.initial_context(params, bank)
  encode = prefix.context_encoder(
      config, params, bank, classes_per_chunk=prefix.classes_within(
          config, bank, max_bytes=_MAX_BYTES, num_contexts=size.num_images))
  features = timing.compiled(_features, encode, context)
  row = {"classes": number,
         "encode_ms": 1e3 * timing.measure(features, encode, context)}
  views = sizes.view_features(size.num_images, config)
  for name in ("vjp", "jacobian"):
    row |= _tuning(name, encode, context, views)
  return [row], []


def _features(encode, context):
  return encode(context)


def _tuning(linearisation, encode, context, views):
  """Seconds of preparing, and milliseconds of each image with O-TPT."""
  prepare = timing.compiled(functools.partial(
      prefix_sharing.prepare, linearisation=linearisation), encode, context)
  prepared, once = timing.timed(prepare, encode, context)
  given = prepared, views
  answer = timing.compiled(prefix_sharing.with_engine, *given)
  seconds = timing.measure(answer, *given)
  return {
      f"{linearisation}_once_s": once,
      f"{linearisation}_ms_per_image": 1e3 * seconds / len(views),
      f"{linearisation}_temporary_mb": timing.temporary_bytes(answer) / 1e6}


def _torch(size):
  """The same model in PyTorch, image by image as released."""
  # Before JAX takes three quarters of the memory.
  os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
  reason = torch_loop.missing(jax.default_backend())
  if reason is not None:
    return [{"not_run": reason}], []
  return torch_loop.measured(
      size.models[_MODEL], size.num_classes[_CLASSES[0]], size.num_images,
      sizes.NUM_VIEWS, jax.default_backend()), []


class Part(NamedTuple):
  """One part.

  Attributes:
    measure: Function from sizes to rows and claims.
    limit: Seconds that it may take.
  """

  measure: Callable[[Size], tuple[list[dict[str, Any]], list[timing.Claim]]]
  limit: float


# In the order in which they run: less than eight minutes with a first look at
# the devices, for which the first part's limit holds, too.
PARTS = {
    "devices": Part(_devices, 25),
    "precision": Part(_precision, 70),
    **{f"image tower, {name}": Part(
        functools.partial(_image_tower, name), 45) for name in _TOWERS},
    "end to end": Part(_end_to_end, 75),
    **{f"text, {number} classes": Part(functools.partial(_text, number), 36)
       for number in _CLASSES},
    "PyTorch": Part(_torch, 40)}


if __name__ == "__main__":
  main()
