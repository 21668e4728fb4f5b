"""The command at real size: its seconds and its peak memory.

A model of the sizes of CLIP with random weights, the tokenizer of CLIP and the
photos of Caltech-101, all of them files, go through `jaxcal evaluate` in a
process of its own. What is predicted means nothing; that the logits of the
whole images are those of transformers' CLIP on the same files is checked.
"""

import argparse
import gzip
import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import jax.numpy as jnp
import numpy as np
from PIL import Image
from safetensors import numpy as safetensors

from benchmarks import sizes
from benchmarks import timing
from jaxcal import predictions
from jaxcal.data import catalogue
from jaxcal.testbed import export
from jaxcal.testbed import tokenizer

_METHODS = ("zero_shot", "soc")
# The released tokenizer takes no more of the file: a vocabulary of 49,408.
_NUM_MERGES = 49152 - 256 - 2
# Pixels differ by 1/255 here and there.
_AGREED = 0.05


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--root", required=True,
                      help="folder that holds caltech-101")
  parser.add_argument("--merges", required=True, type=pathlib.Path,
                      help="bpe_simple_vocab_16e6.txt.gz of OpenAI's CLIP")
  parser.add_argument("--model", choices=list(sizes.MODELS),
                      default="ViT-B/16")
  parser.add_argument("--num_images", type=int, default=32)
  parser.add_argument("--num_views", type=int, default=8)
  args = parser.parse_args()

  with tempfile.TemporaryDirectory() as folder:
    model, output = pathlib.Path(folder, "model"), pathlib.Path(folder, "run")
    megabytes = write_model(args.model, args.merges, model)
    row = _evaluate(args, model, output)
    found = predictions.load(output / "predictions/caltech101/zero_shot")
    theirs = _of_transformers(model, args.root, found)
  row |= {"weights_mb": megabytes} | _differences(found.logits, theirs)
  print(timing.table([row]))
  claims = [timing.Claim(
      "difference of logits to transformers', in those to the next one's",
      row["max_difference"] / row["to_the_next"], ceiling=_AGREED)]
  timing.write("real_size", {
      "model": args.model, "num_images": args.num_images,
      "num_views": args.num_views, "methods": _METHODS, "rows": [row]}, claims)
  timing.finish(claims)


def write_model(name, merges, folder):
  """Writes a checkpoint as the hub has them; megabytes of its weights."""
  config = sizes.MODELS[name]
  params = sizes.text_params(config) | sizes.image_params(config)
  params["logit_scale"] = jnp.log(sizes.LOGIT_SCALE)
  folder.mkdir()
  path = folder / "model.safetensors"
  safetensors.save_file(export.state_dict(params), path, {"format": "pt"})
  for file, content in (
      ("config.json", export.huggingface_config(config)),
      ("preprocessor_config.json", export.image_processor(config.image_size))):
    (folder / file).write_text(json.dumps(content), "utf-8")
  lines = gzip.decompress(merges.read_bytes()).decode("utf-8").split("\n")
  tokenizer.save_merges(
      [tuple(line.split()) for line in lines[1:1 + _NUM_MERGES]], folder,
      config.context_length)
  return path.stat().st_size / 1e6


def _evaluate(args, model, output):
  """Seconds and memory of the command in a process of its own."""
  own, start = _peak_mb(resource.RUSAGE_SELF), time.perf_counter()
  subprocess.run([
      sys.executable, "-m", "jaxcal", "evaluate", "--config=quickstart",
      f"--config.model.name={model}", "--config.data.name=caltech101",
      f"--config.data.root={args.root}",
      f"--config.data.limit={args.num_images}",
      f"--config.views.number={args.num_views}",
      # Two views at least.
      f"--config.method.selection_fraction={max(0.1, 2 / args.num_views)}",
      f"--config.method.name={','.join(_METHODS)}",
      f"--output={output}", "--nocompilation_cache"], check=True)
  seconds = time.perf_counter() - start
  used = resource.getrusage(resource.RUSAGE_CHILDREN)
  peak = _peak_mb(resource.RUSAGE_CHILDREN)
  return {"images": args.num_images, "views": args.num_views,
          "seconds": seconds, "cpu_seconds": used.ru_utime + used.ru_stime,
          # It begins at that of the parent, and then says nothing.
          "peak_mb": peak if peak > own else None}


def _peak_mb(who):
  return resource.getrusage(who).ru_maxrss * 1024 / 1e6


def _differences(ours, theirs):
  """Largest difference, and the least to another image or another class."""
  largest = lambda axis: np.abs(ours - np.roll(theirs, 1, axis)).max(1 - axis)
  return {"max_difference": float(np.abs(ours - theirs).max()),
          "to_the_next": float(min(largest(0).min(), largest(1).min()))}


def _of_transformers(folder, root, found):
  """Zero-shot logits of the images by PyTorch and transformers."""
  import torch
  import transformers
  images = catalogue.load("caltech101", root)
  paths = [images.path(images.ids.index(one)) for one in found.ids]
  model = transformers.CLIPModel.from_pretrained(
      folder, dtype=torch.float32).eval()
  processor = transformers.CLIPProcessor.from_pretrained(folder)
  names = [name.replace("_", " ") for name in images.class_names]
  inputs = processor(
      text=[f"a photo of a {name}." for name in names],
      images=[Image.open(path).convert("RGB") for path in paths],
      return_tensors="pt", padding=True)
  with torch.no_grad():
    return model(**inputs).logits_per_image.numpy()


if __name__ == "__main__":
  main()
