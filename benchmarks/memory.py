"""Peak memory of the whole command, against the budget that it is given.

A model of the sizes of CLIP with random weights goes through `jaxcal evaluate`
with zero-shot and SoC in processes of their own: at several budgets, with many
classes, and with a picture of 12,000 by 12,000 pixels among small ones.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile
from typing import NamedTuple

import numpy as np
from PIL import Image

from benchmarks import real_size
from benchmarks import sizes
from benchmarks import timing
from jaxcal import predictions

_NUM_IMAGES = 8
_SIDE_OF_LARGE = 12_000
# What a run may hold beside its budget: the interpreter, its packages.
_BESIDE_GB = 1.0
# Of the command line of a process of its own, whose memory is told.
_MEASURED = """
import resource, sys
from jaxcal.cli import main
status = main.run()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
sys.exit(status)
"""


class _Case(NamedTuple):
  """A run.

  Attributes:
    name: Name in the table.
    memory_gb: Budget; the default of a CPU if None, which is 4.
    num_classes: Number of classes.
    num_views: Views of an image.
    large: Whether one of the pictures is large.
  """

  name: str
  memory_gb: float | None
  num_classes: int = 100
  num_views: int = 64
  large: bool = False


_CASES = (
    _Case("default", None),
    _Case("half of the budget", 2.0),
    _Case("1,000 classes", None, num_classes=1000, num_views=8),
    _Case("a picture of 12,000 x 12,000", None, num_views=8, large=True),
)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--merges", required=True, type=pathlib.Path,
                      help="bpe_simple_vocab_16e6.txt.gz of OpenAI's CLIP")
  parser.add_argument("--model", choices=list(sizes.MODELS),
                      default="ViT-B/16")
  args = parser.parse_args()

  with tempfile.TemporaryDirectory() as scratch:
    folder = pathlib.Path(scratch)
    model = folder / "model"
    real_size.write_model(args.model, args.merges, model)
    rows = [_run(case, model, folder / str(number))
            for number, case in enumerate(_CASES)]
  print(timing.table([
      {name: value for name, value in row.items() if name != "logits"}
      for row in rows]))
  claims = [timing.Claim(
      f"peak of {row['case']}, in GB", row["peak_gb"],
      ceiling=row["budget_gb"] + _BESIDE_GB) for row in rows]
  claims.append(timing.Claim(
      "difference of logits between budgets",
      float(np.abs(rows[0]["logits"] - rows[1]["logits"]).max()),
      ceiling=1e-3))
  for row in rows:
    del row["logits"]
  timing.write("memory", {"model": args.model, "num_images": _NUM_IMAGES,
                          "rows": rows}, claims)
  timing.finish(claims)


def _run(case, model, folder):
  """A row of the case."""
  _draw(case, folder / "images")
  flags = [
      f"--config.model.name={model}", f"--config.data.name={folder / 'images'}",
      f"--config.views.number={case.num_views}", f"--output={folder / 'run'}",
      f"--config.method.selection_fraction={max(0.1, 2 / case.num_views)}",
      "--config.method.name=zero_shot,soc", "--nocompilation_cache"]
  if case.memory_gb is not None:
    flags.append(f"--config.memory_gb={case.memory_gb}")
  done = subprocess.run(
      [sys.executable, "-c", _MEASURED, "evaluate", "--config=quickstart",
       *flags], check=True, stdout=subprocess.PIPE, text=True)
  found = predictions.load(folder / "run/predictions/images/soc")
  return {"case": case.name, "classes": case.num_classes,
          "views": case.num_views, "budget_gb": case.memory_gb or 4.0,
          "peak_gb": int(done.stdout.split()[-1]) / 2**20,
          "logits": found.logits}


def _draw(case, folder):
  """Small noisy pictures in the first classes of many."""
  generator = np.random.default_rng(0)
  for number in range(case.num_classes):
    (folder / f"thing number {number}").mkdir(parents=True)
  for number in range(_NUM_IMAGES):
    side = (_SIDE_OF_LARGE,) * 2 if case.large and not number else (300, 400)
    coarse = generator.integers(256, size=(30, 40, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(side[::-1]).save(
        folder / f"thing number {number}" / "a.jpg", quality=60)


if __name__ == "__main__":
  main()
