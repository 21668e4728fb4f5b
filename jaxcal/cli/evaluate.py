"""`jaxcal evaluate`: images in; predictions, a table and a page out."""

from collections.abc import Mapping
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import shutil
import sys
from typing import Any

from absl import flags
from ml_collections import config_flags
import tqdm

from jaxcal import config as config_lib
from jaxcal import evaluate as evaluate_lib
from jaxcal import predictions as predictions_lib
from jaxcal import provenance
from jaxcal.adapt import engine
from jaxcal.adapt import objectives
from jaxcal.clip import checkpoint
from jaxcal.data import image_set as image_sets
from jaxcal.data import sources
from jaxcal.data import views
from jaxcal.report import figures
from jaxcal.report import page
from jaxcal.report import summary
from jaxcal.report import tables
from jaxcal.testbed import sets as testbed_sets
from jaxcal.testbed import shipped

ABOUT = "adapt a model to each image of some sets and measure its calibration"
EXAMPLE = ("jaxcal evaluate --config=configs/quickstart.py "
           "--config.method.weight=30")

# Paired differences are taken to this method where it is among those run.
_REFERENCE = "tpt"
# Fields that do not change the numbers, so that a run may go on with others.
_FREE = ("config.batch_size", "config.num_threads")

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "a Python file with get_config(), see configs/",
    lock_config=True)
_OUTPUT = flags.DEFINE_string(
    "output", None, "folder to write to; runs/NAME-HASH if absent, with the "
    "name of the config file and a hash of its fields")
_OVERWRITE = flags.DEFINE_bool(
    "overwrite", False, "remove what the output folder holds first")


def help_text() -> str:
  """What `jaxcal evaluate --help` prints."""
  rows = config_lib.describe(config_lib.ExperimentConfig())
  fields = [f"  --{name}={_plain(value)}\n      {about}"
            for name, value, about in rows]
  return "\n".join([
      f"jaxcal evaluate: {ABOUT}.", "",
      "Writes predictions/, results.jsonl, results.md, differences.jsonl, "
      "report.html and", "diagram-*.svg, and prints a table.",
      "An interrupted run goes on where it stopped.", "",
      "Example:", f"  {EXAMPLE}", "",
      "Methods: " + ", ".join(objectives.METHODS),
      "Image sets: " + ", ".join(testbed_sets.NAMES) +
      ",\n  a folder with one sub-folder per class, or a CSV file (path,label)",
      "", "Flags:",
      "  --config=FILE\n      " + flags.FLAGS["config"].help,
      *(f"  --{flag}\n      {flags.FLAGS[flag].help}"
        for flag in ("output", "overwrite", "debug")),
      "", "Fields of the config, with their defaults:", *fields])


def main() -> None:
  """Runs the experiment that the flags describe."""
  config = _checked_config()
  methods = _methods(config.method)
  image_sets_by_name = _load_sets(config.data)
  model = _load_model(config.model.name)
  settings = _settings(config, model)
  output = _output_folder(settings)
  make_views = _make_views(config.views, model)
  for name, images in image_sets_by_name.items():
    _evaluate_set(config, methods, model, images, make_views, settings,
                  output / "predictions" / name)
  _write_report(output, config, list(image_sets_by_name), list(methods),
                settings)


def _checked_config():
  config = _CONFIG.value
  if config is None:
    raise ValueError(f"--config is missing; for example: {EXAMPLE}")
  path = config_flags.get_config_filename(flags.FLAGS["config"])
  if not os.path.exists(path):
    raise FileNotFoundError(f"no config file {path}; examples lie in configs/ "
                            "of the source tree")
  if not isinstance(config, config_lib.ExperimentConfig):
    # A file that failed to load shows its error when it is looked at.
    raise ValueError("get_config() of the config file must return a "
                     f"jaxcal.config.ExperimentConfig, not {config}")
  # The flag hands over "a,b" as the one name "a,b".
  for part in (config.data, config.method):
    part.name = tuple(
        name.strip() for joined in part.name for name in joined.split(","))
  config_lib.validate(config)
  return config


def _methods(config) -> dict[str, objectives.Method]:
  """The methods of a run with the settings that the config overrides."""
  wanted = {"weight": config.weight, "delta": config.delta,
            "quantile": config.quantile}
  wanted = {key: value for key, value in wanted.items() if value is not None}
  known = {}
  for name in config.name:
    if name in known:
      raise ValueError(f"config.method.name has {name!r} twice")
    objectives.method(name)  # an unknown name is refused first
    known[name] = objectives.settings_of(name)
  for key in wanted:
    if not any(key in settings for settings in known.values()):
      raise ValueError(f"config.method.{key} is set, but none of the methods "
                       f"{', '.join(known)} has a {key}")
  methods = {}
  for name, settings in known.items():
    method = objectives.method(
        name, **{key: wanted[key] for key in settings if key in wanted})
    if method.num_steps:
      method = dataclasses.replace(method, num_steps=config.num_steps)
    methods[name] = method
  return methods


def _load_sets(config) -> dict[str, image_sets.ImageSet]:
  """The image sets by name, checked and shortened."""
  loaded = {}
  for name in config.name:
    images = _load_set(name, config.class_names)
    if images.name in loaded:
      raise ValueError(f"two image sets are called {images.name!r}")
    loaded[images.name] = image_sets.limit(
        images, config.limit) if config.limit else images
  return loaded


def _load_set(name, class_names_path):
  if name in testbed_sets.NAMES:
    return testbed_sets.load(name)
  class_names = (
      sources.class_names_file(class_names_path) if class_names_path else None)
  if os.path.isdir(name):
    images, root = sources.image_folder(name, class_names=class_names), name
  elif name.endswith(".csv"):
    images = sources.csv_file(name, class_names=class_names)
    root = os.path.dirname(name) or "."
  else:
    raise ValueError(
        f"unknown image set {name!r}: no folder and no .csv file of that name "
        f"here, nor a testbed set ({', '.join(testbed_sets.NAMES)}).")
  with _progress(f"{images.name}: headers", len(images.ids)) as bar:
    sources.verify(
        images, root, progress=lambda done, total: bar.update(done - bar.n))
  return images


def _load_model(name):
  if name == "testbed":
    return checkpoint.load(shipped.folder())
  return checkpoint.load(name)


def _settings(config, model) -> dict[str, Any]:
  """Everything that decides the numbers, by dotted name, as JSON has it."""
  settings = {name: value for name, value, _ in config_lib.describe(config)
              if name not in _FREE}
  settings |= {"model.fingerprint": model.fingerprint}
  settings |= {f"provenance.{key}": value
               for key, value in provenance.describe().items()}
  return json.loads(json.dumps(settings))


def _output_folder(settings) -> pathlib.Path:
  """The folder of the run, with `run.json` in it; refuses another run's."""
  fields = {name: value for name, value in settings.items()
            if name.startswith("config.")}
  if _OUTPUT.value:
    output = pathlib.Path(_OUTPUT.value)
  else:
    stem = pathlib.Path(config_flags.get_config_filename(
        flags.FLAGS["config"])).stem
    digest = hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:8]
    output = pathlib.Path("runs", f"{stem}-{digest}")
  if _OVERWRITE.value and (output / "run.json").exists():
    shutil.rmtree(output)
  manifest = output / "run.json"
  if manifest.exists():
    _refuse_other_run(output, json.loads(manifest.read_text()), settings)
  output.mkdir(parents=True, exist_ok=True)
  predictions_lib.write_whole(
      manifest, json.dumps(settings, indent=2).encode())
  return output


def _refuse_other_run(output, before, now):
  decisive = ("config.", "model.", "provenance.source", "provenance.jax")
  changed = [
      f"{name} was {before.get(name)!r}, is {now.get(name)!r}"
      for name in sorted(set(before) | set(now))
      if name.startswith(decisive) and before.get(name) != now.get(name)]
  if changed:
    raise ValueError(
        f"{output} holds another run:\n  " + "\n  ".join(changed) +
        "\ngive another --output, or --overwrite to remove it")


def _make_views(config, model):
  preprocess = model.preprocess
  return functools.partial(
      views.make_views, seed=config.seed, num_views=config.number,
      resize=preprocess.resize, crop=preprocess.crop,
      resample=preprocess.resample, offset=preprocess.offset,
      area=(config.min_area, config.max_area),
      flip_probability=config.flip_probability)


def _evaluate_set(config, methods, model, images, make_views, settings, folder):
  """Writes the predictions that are not there yet, batch by batch."""
  missing = {name: method for name, method in methods.items()
             if not predictions_lib.exists(folder / name)}
  if not missing:
    return
  parts = folder / "parts"
  about = {name: settings | {"data": images.name, "method": name}
           for name in missing}
  with _progress(images.name, len(images.ids)) as bar:
    answers = evaluate_lib.evaluate(
        model, images, missing, make_views=make_views,
        template=config.data.template,
        optimizer=engine.default_optimizer(
            config.method.learning_rate, config.method.weight_decay),
        selection_fraction=config.method.selection_fraction,
        batch_size=config.batch_size, num_threads=config.num_threads,
        parts=parts, settings=about,
        on_batch=lambda done, total: bar.update(done - bar.n))
  for name, answer in answers.items():
    predictions_lib.save(answer, folder / name)
  shutil.rmtree(parts)


def _write_report(output, config, data_names, method_names, settings):
  """Predictions on disk become results.jsonl, the page and a printed table."""
  metrics = config.metrics
  conventions = summary.Conventions(
      metrics.num_bins, metrics.edges, metrics.level, metrics.num_resamples,
      metrics.seed)
  rows, differences, diagrams = [], [], {}
  for data in data_names:
    answers = {name: predictions_lib.load(output / "predictions" / data / name)
               for name in method_names}
    of_data = _labelled(data, {
        name: summary.summarize(answer, conventions)
        for name, answer in answers.items()})
    rows += of_data
    differences += _differences(data, answers, conventions)
    diagrams[data] = figures.svg(figures.reliability_diagrams({
        figures.panel_title(row): summary.bins_of(
            answers[row["method"]], conventions) for row in of_data}))
    predictions_lib.write_whole(
        output / f"diagram-{data}.svg", diagrams[data].encode())
  _write_rows(output / "results.jsonl", rows)
  _write_rows(output / "differences.jsonl", differences)
  text = page.render(
      title=f"Calibration of {config.model.name}", rows=rows,
      differences=differences, diagrams=diagrams,
      conventions=conventions, settings=settings)
  predictions_lib.write_whole(output / "report.html", text.encode())
  text = _tables(rows, differences, conventions)
  predictions_lib.write_whole(output / "results.md", f"{text}\n".encode())
  print(f"{text}\n\nWritten to {output}: report.html, diagram-*.svg, "
        "results.md, results.jsonl, differences.jsonl, predictions/")


def _labelled(data, by_method: Mapping[str, summary.Row]):
  return [{"data": data, "method": name} | row
          for name, row in by_method.items()]


def _differences(data, answers, conventions):
  if _REFERENCE not in answers:
    return []
  rows = _labelled(data, {
      name: summary.compare(answer, answers[_REFERENCE], conventions)
      for name, answer in answers.items() if name != _REFERENCE})
  return [row | {"reference": _REFERENCE} for row in rows]


def _write_rows(path, rows):
  text = "".join(json.dumps(row) + "\n" for row in rows)
  predictions_lib.write_whole(path, text.encode())


def _tables(rows, differences, conventions):
  blocks = [
      tables.markdown(rows, tables.RESULTS),
      f"ECE: {conventions.num_bins} {conventions.edges}-closed bins; floor: "
      "that of a perfectly calibrated model with these confidences; brackets: "
      f"{100 * conventions.level:g} % bootstrap."]
  if differences:
    blocks += ["Paired differences:",
               tables.markdown(differences, tables.DIFFERENCES)]
  return "\n\n".join(blocks)


def _progress(name, total):
  # In a log file a line every half minute is enough.
  interval = 0.2 if sys.stderr.isatty() else 30
  return tqdm.tqdm(total=total, desc=name, unit="image", mininterval=interval)


def _plain(value):
  return ",".join(value) if isinstance(value, tuple) else value
