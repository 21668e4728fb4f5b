"""What the evaluations of the papers take, planned from records alone.

Test-time prompt tuning with ViT-B/16, 64 views and the methods of the command's
default, on ImageNet stage by stage and on the fifteen sets, for 1, 8 and 256
chips. Nothing is run: times on chips are bounds of programs that were compiled
(`benchmarks.aot`), those of the host were measured (`benchmarks.decode`), bytes
are counted. The tables stand in docs/accelerators.md between two marks.

  python -m benchmarks.planning [--write]
"""

import argparse
import json
import math
import pathlib
from typing import Any

from benchmarks import programs
from benchmarks import sizes
from benchmarks import timing
from jaxcal import config
from jaxcal import memory
from jaxcal.adapt.prompt import engine
from jaxcal.data import catalogue

CHIPS = (1, 8, 256)
PAGE = pathlib.Path(__file__).parents[1] / "docs" / "accelerators.md"
MARKS = ("<!-- planning: from here by `python -m benchmarks.planning` -->\n",
         "<!-- planning: up to here -->\n")
_MODEL = sizes.MODELS["ViT-B/16"]
_BATCH = config.ExperimentConfig().batch_size
_BYTES = 2  # of a stored number, float16
# Words of "a photo of a", that prompts are tuned in.
_CONTEXT = 4


def _record(name: str, backend: str) -> dict[str, Any]:
  path = timing.path_of(name, backend)
  return json.loads(path.read_text("utf-8"))


def between(num_classes: int, few: float, many: float) -> float:
  """A time between those for 47 and for 1,000 classes, on the line of both."""
  return few + (many - few) * (num_classes - 47) / (1000 - 47)


class Plan:
  """Times and bytes of a set, from the records."""

  def __init__(self, compiled: dict[str, Any], decoded: dict[str, Any]):
    self._compiled, self._decoded = compiled, decoded

  def milliseconds(self, program: str) -> float:
    """The least of a program's call on one chip."""
    return self._compiled["programs"][program]["bound_ms"]

  def per_batch(self, num_classes: int) -> dict[str, float]:
    """Milliseconds of a batch on each chip, by stage."""
    return {
        "views, cut on the chip": self.milliseconds("views of photographs"),
        "image tower": self.milliseconds("image tower, ViT-B/16"),
        "predictions": between(
            num_classes, self.milliseconds("predictions, 47 classes"),
            self.milliseconds("predictions, 1,000 classes"))}

  def once(self, num_images: int, num_classes: int) -> float:
    """Milliseconds of what is prepared for a set, on one chip."""
    budget = programs.budget(self._compiled["chip"]["memory"])
    if engine.choose_linearisation(
        num_classes, _MODEL.projection, _CONTEXT * _MODEL.text.width,
        num_images=num_images,
        max_bytes=memory.shares(budget).jacobian) == "jacobian":
      return self.milliseconds("prepare, 1,000 classes") * num_classes / 1000
    return between(num_classes, self.milliseconds("text, 47 classes"),
                   self.milliseconds("text, 1,000 classes"))

  def seconds(self, num_images: int, num_classes: int,
              chips: int) -> dict[str, float]:
    """Seconds at least, by stage."""
    batches = math.ceil(num_images / (_BATCH * chips))
    found = {name: batches * one / 1e3
             for name, one in self.per_batch(num_classes).items()}
    return {"preparing the classes":
            self.once(num_images, num_classes) / 1e3, **found}

  def core_seconds(self, num_images: int, what: str) -> tuple[float, float]:
    """Seconds of a core of the host, for pictures of the two sizes."""
    few, many = sorted(row[what] for row in self._decoded["rows"])
    return num_images * few / 1e3, num_images * many / 1e3


def store_bytes(num_images: int) -> int:
  """Bytes of stored features of all views, and what the projection sees."""
  width, residual = _MODEL.pooled_sizes
  return num_images * _BYTES * (
      sizes.NUM_VIEWS * _MODEL.projection + width + residual)


def stages(plan: Plan, name: str = "imagenet") -> list[list[str]]:
  """Rows of a set by stage: what, how it is known, and for all chips."""
  row = catalogue.CATALOGUE[name]
  images, classes = row.counts["test"], row.num_classes
  by_chips = [plan.seconds(images, classes, chips) for chips in CHIPS]
  rows = [[stage, "compiled, at least", *(_time(one[stage])
                                          for one in by_chips)]
          for stage in by_chips[0]]
  rows.append(["all of these", "compiled, at least", *(
      _time(sum(one.values())) for one in by_chips)])
  for what, field in (
      ("host: decoding, views cut on the chip", "pipeline_ms"),
      ("host: decoding and cutting by Pillow instead", "plain_ms")):
    low, high = plan.core_seconds(images, field)
    rows.append([what, "measured, a core for each chip",
                 *[f"{_time(low / n)} to {_time(high / n)}" for n in CHIPS]])
  rows.append(["store of all views, float16", "counted", *[
      f"{store_bytes(images) / n / 1e9:.3g} GB" for n in CHIPS]])
  return rows


def every_set(plan: Plan) -> list[list[str]]:
  """Rows of the fifteen sets and of them all."""
  rows, sums = [], [0.0] * (3 + len(CHIPS))
  for row in catalogue.CATALOGUE.values():
    if not row.of_papers:
      continue
    images, classes = row.counts["test"], row.num_classes
    numbers = [float(images), *(
        sum(plan.seconds(images, classes, chips).values()) for chips in CHIPS),
        plan.core_seconds(images, "pipeline_ms")[1],
        float(store_bytes(images))]
    sums = [a + b for a, b in zip(sums, numbers)]
    rows.append([row.title, f"{classes:,}", *_cells(numbers)])
  return rows + [["all fifteen", "", *_cells(sums)]]


def _cells(numbers):
  images, *times, size = numbers
  return [f"{images:,.0f}", *map(_time, times), f"{size / 1e9:.2g} GB"]


def _time(seconds: float) -> str:
  if seconds >= 5400:
    return f"{seconds / 3600:.2g} h"
  return f"{seconds / 60:.2g} min" if seconds >= 90 else f"{seconds:.2g} s"


def _table(head, rows):
  return "\n".join("| " + " | ".join(row) + " |" for row in (
      head, ["---"] * len(head), *rows))


def markdown() -> str:
  """Both tables, as they stand on the page."""
  plan = Plan(_record("aot", "v5e"), _record("decode", "cpu"))
  chips = [f"{count} chip" + "s" * (count > 1) for count in CHIPS]
  return "\n\n".join([
      "ImageNet, 50,000 images and 1,000 classes:",
      _table(["stage", "how it is known", *chips], stages(plan)),
      "The fifteen sets:",
      _table(["set", "classes", "images", *(
          f"{one}: compiled, at least" for one in chips),
              "host: measured, of one core", "store: counted"],
             every_set(plan))]) + "\n"


def on_page(page: str) -> str:
  """The page with the tables of today between its marks."""
  before, rest = page.split(MARKS[0])
  _, after = rest.split(MARKS[1])
  return before + MARKS[0] + "\n" + markdown() + "\n" + MARKS[1] + after


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--write", action="store_true",
                      help="put the tables on the page, too")
  args = parser.parse_args()
  print(markdown(), end="")
  if args.write:
    PAGE.write_text(on_page(PAGE.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
  main()
