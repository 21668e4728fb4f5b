"""Numbers that others have published, beside those of a run.

They lie in published_numbers.json, with their sources and how far each is to be
trusted: the rows of their tables, none of them measured here.
"""

from collections.abc import Iterator, Mapping, Sequence
import functools
import importlib.resources
import json
import re
from typing import Any, NamedTuple

from scipy import special

from jaxcal import spelling
from jaxcal import stages
from jaxcal.report import summary
from jaxcal.report import tables

MATCH = "match"
OFF = "off"
NOT_COMPARABLE = "not comparable"

# Reasons why a row cannot be compared, of which tables only say how many there
# are: such rows are of something else altogether.
_ELSEWHERE = ("backbone", "prompt")
# Views of an image in the released programs of prompt tuning.
_NUM_VIEWS = 64
# What models are called, lower case, after the folders of a path.
_BACKBONES = {
    r"(clip-)?vit-b[-/]?32.*laion2b.*": "ViT-B/32 laion2B",
    r"(clip-)?vit-(base-patch|b[-/]?)16": "ViT-B/16",
    r"(clip-)?vit-(base-patch|b[-/]?)32": "ViT-B/32",
    r"(clip-)?vit-(large-patch|l[-/]?)14": "ViT-L/14",
    r"(clip-)?(rn|resnet-?)50(-quickgelu|_clip\.openai)?": "RN50",
    r"siglip.*": "SigLIP",
}
_TEMPLATE = "template"


class Setting(NamedTuple):
  """What decides whether numbers of a run can be compared with others.

  Attributes:
    backbone: Backbone of the model as published tables call it; its own name
      where they do not know it.
    half: Half of the classes, "all", "base" or "new".
    prompt: Start of the context, "template" for that of the released programs;
      None where not known.
    num_views: Number of views of an image; None where not known.
    augmix: Whether AugMix is applied to the views; None where not known, or as
      published.
  """

  backbone: str
  half: str = "all"
  prompt: str | None = None
  num_views: int | None = None
  augmix: bool | None = None


def setting_of(settings: Mapping[str, Any]) -> Setting:
  """What run.json says of it.

  Args:
    settings: Settings of the run by dotted name, of a report of files, too.
  """
  name = settings.get("config.model.name", "not known")
  backbone = _backbone(name) or name
  if "config.data.template" not in settings:
    return Setting(backbone)
  given = settings.get("config.views.augmix")
  paper = settings.get("config.protocol") == "paper"
  return Setting(
      backbone, settings.get("config.data.classes", "all"),
      _prompt(settings), settings.get("config.views.number") or _NUM_VIEWS,
      None if given is None and paper else bool(given))


def check(data: str, model: str | None) -> None:
  """Refuses what published numbers cannot be of, before anything is measured.

  Args:
    data: Name of the image set.
    model: Name of the model; None where not known.

  Raises:
    ValueError: There are none of this set, or for such a model.
  """
  known = sorted({name for row in _numbers()["rows"] for name in row["values"]})
  if data not in known:
    raise ValueError(
        f"no published numbers of the image set {data!r}: name it with --data="
        f"NAME; {spelling.choices(data, known)}")
  if model is None or _backbone(model) is None:
    raise ValueError(
        f"published numbers are of a backbone, but the model is {model}: name "
        f"it with --model=NAME, one of "
        f"{', '.join(dict.fromkeys(_BACKBONES.values()))}")


def compare(
    rows: Sequence[summary.Row],
    setting: Setting,
    conventions: summary.Conventions,
) -> list[summary.Row]:
  """Published numbers of the same sets and methods, each with a verdict.

  The band is what one more run may be away from theirs by chance: where they
  print a standard deviation over seeds, that of a new seed beside the mean of
  theirs (Student's t); otherwise the binomial error of the accuracy or the
  bootstrap interval of our ECE; to both, half a unit of their last decimal is
  added.

  Args:
    rows: Rows of the report, from `summary.summarise`.
    setting: What the run is of.
    conventions: Conventions of the ECE and of intervals, whose level is that of
      the band.

  Returns:
    Rows with the stages of ours: `metric`, `here` and `there` (fractions),
    `difference`, `band` and `band_from`, `verdict` (`MATCH`, `OFF` or
    `NOT_COMPARABLE`), `reasons` (of the latter, by what differs), and `source`,
    `title`, `table`, `trust`, `note` and `decimals` of theirs.
  """
  found = []
  for row in rows:
    one = stages.of(row)
    label = one._replace(tuned_seed=None).label
    for other in _numbers()["rows"]:
      if row["data"] in other["values"] and other["half"] == setting.half and (
          label == "+".join(filter(None, (
              other["method"], other.get("post"))))):
        found.append({"data": row["data"], **stages.fields(one),
                      **_beside(row, other, setting, conventions)})
  return found


def shown(beside: Sequence[summary.Row]) -> list[summary.Row]:
  """Rows for a table: without those of other backbones and prompts."""
  return [row for row in beside
          if not any(name in row["reasons"] for name in _ELSEWHERE)]


def remarks(beside: Sequence[summary.Row]) -> list[str]:
  """Sentences on how to read these rows, and on those that are not shown."""
  if not beside:
    return ["Nothing published is known here of these sets and methods."]
  left = len(beside) - len(shown(beside))
  sources = dict.fromkeys(
      f"{row['source']}: {row['title']}" for row in shown(beside))
  said = [
      "Theirs are numbers of others, none measured here. Band: what a run may "
      "be off by chance, from their standard deviation over seeds where it is "
      "printed, otherwise from the binomial error of the accuracy or the "
      "bootstrap of the ECE, as if the images were others; and half a unit of "
      "their last decimal."]
  if sources:
    said.append(f"Sources: {'; '.join(sources)}.")
  if left:
    said.append(f"{left} more numbers, of other backbones or prompts, are in "
                "published.jsonl alone.")
  return said


def blocks(beside: Sequence[summary.Row]) -> Iterator[str]:
  """Paragraphs and the table for results.md."""
  yield from remarks(beside)
  if shown(beside):
    yield tables.markdown(shown(beside), tables.PUBLISHED)


@functools.cache
def _numbers() -> dict[str, Any]:
  """The file as it is, see its "about"."""
  return json.loads(importlib.resources.files("jaxcal.report").joinpath(
      "published_numbers.json").read_text(encoding="utf-8"))


def _backbone(name: str) -> str | None:
  """The backbone of a model's name, which may be a path; None if none."""
  name = name.lower().rstrip("/")
  for pattern, backbone in _BACKBONES.items():
    if re.fullmatch(rf"(.*[/\\])?({pattern})", name):
      return backbone
  return None


def _prompt(settings):
  """Where the context starts, as published rows say it."""
  if settings.get("config.method.context", _TEMPLATE) != _TEMPLATE:
    return "context of its own"
  before = settings["config.data.template"].partition("{")[0].strip()
  return _TEMPLATE if before == "a photo of a" else f"{_TEMPLATE}: {before}"


def _beside(row, other, setting, conventions):
  """One published number beside ours."""
  metric, n = other["metric"], row["num_images"]
  mean, _, std = other["values"][row["data"]].partition(" +- ")
  decimals = len(mean.partition(".")[2])
  there = float(mean) / 100
  difference = row[metric] - there
  band, origin = _band(row, other, there, std, conventions.level)
  band += 0.5 * 10.0 ** -(decimals + 2)
  reasons = dict(_reasons(row["data"], n, other, setting, conventions))
  verdict = NOT_COMPARABLE if reasons else (
      MATCH if abs(difference) <= band else OFF)
  return {
      "metric": metric, "here": row[metric], "there": there,
      "difference": difference, "band": band, "band_from": origin,
      "verdict": verdict, "reasons": reasons, "decimals": decimals,
      "title": _numbers()["sources"][other["source"]],
      **{name: other.get(name) for name in (
          "source", "table", "trust", "note")}}


def _band(row, other, there, std, level):
  """How far a run may be from the published mean, and from what that is."""
  upper, seeds = 0.5 + level / 2, other.get("seeds", 1)
  if std and seeds > 1:
    # Of a zero that is printed, no more is known than its rounding.
    spread = max(float(std), 0.005) / 100
    return (float(special.stdtrit(seeds - 1, upper)) * spread *
            (1 + 1 / seeds) ** 0.5), f"{seeds} seeds"
  if other["metric"] == "accuracy":
    variance = there * (1 - there) / row["num_images"]
    return float(special.ndtri(upper)) * variance ** 0.5, "binomial"
  return max(row["ece_high"] - row["ece"],
             row["ece"] - row["ece_low"]), "bootstrap"


def _reasons(data, n, other, setting, conventions) -> Iterator[tuple[str, str]]:
  """What keeps a published number from being compared, by what differs."""
  if other["trust"] == "suspect":
    yield "suspect", f"suspect cell ({other.get('note', 'no reason given')})"
  backbone = other.get("backbone", "not stated")
  if backbone != setting.backbone:
    yield "backbone", f"{backbone} there, {setting.backbone} here"
  if "images" in other:
    yield "images", f"other images there ({other['images']})"
  total = _numbers()["num_images"][data]
  if setting.half == "all" and n != total:
    yield "images", f"{total:,} images there, {n:,} here"
  prompt = other.get("init")
  if None not in (prompt, setting.prompt) and prompt != setting.prompt:
    yield "prompt", f"{prompt} there, {setting.prompt} here"
  num_bins = other.get("num_bins")
  if other["metric"] == "ece" and num_bins not in (None, conventions.num_bins):
    yield "bins", (f"{num_bins} bins there, {conventions.num_bins} here: "
                   f"--config.metrics.num_bins={num_bins}")
  if "augmix" in other:
    yield from _crops(other["augmix"], setting)


def _crops(augmix, setting):
  """What differs in the views of methods that look at several."""
  if setting.num_views not in (None, _NUM_VIEWS):
    yield "views", f"{_NUM_VIEWS} views there, {setting.num_views} here"
  if setting.augmix not in (None, augmix):
    told = {True: "with AugMix", False: "without AugMix"}
    yield "crops", f"crops {told[augmix]} there, {told[setting.augmix]} here"
