"""`jaxcal tune`: a few labelled images in; prompts, and answers, out."""

from collections.abc import Mapping
import json
from typing import NamedTuple

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from jaxcal import predictions as predictions_lib
from jaxcal.cli import experiment
from jaxcal.cli import pooled
from jaxcal.cli import trees
from jaxcal.clip import towers
from jaxcal.data import image_set as image_sets
from jaxcal.report import figures
from jaxcal.report import summary
from jaxcal.report import tables
from jaxcal.tuning import classes
from jaxcal.tuning import clip_adapter
from jaxcal.tuning import cocoop
from jaxcal.tuning import coop
from jaxcal.tuning import dor
from jaxcal.tuning import kgcoop
from jaxcal.tuning import method as method_lib
from jaxcal.tuning import outliers as outliers_lib
from jaxcal.tuning import presets
from jaxcal.tuning import prograd
from jaxcal.tuning import protocol
from jaxcal.tuning import training

ABOUT = "tune on a few images of the base classes, answer for base and new ones"
EXAMPLE = "jaxcal tune --config=configs/dor_base_to_new.py"

_DOR = "+dor"
_HALVES = ("base", "new")
# How each is made from the logit scale and the initial context.
_METHODS = {
    "coop": coop.method,
    "kgcoop": kgcoop.method,
    "prograd": prograd.method,
    "cocoop": cocoop.method,
    "clip_adapter": lambda *, logit_scale, context: clip_adapter.method(
        logit_scale=logit_scale),
}
# Epochs between two saves, so that saving costs little.
_EPOCHS_PER_SAVE = 10


class _Task(NamedTuple):
  """One data set: its halves, and the images of all seeds' shots."""

  names: Mapping[str, tuple[str, ...]]  # of the classes, by half
  tests: Mapping[str, image_sets.ImageSet]
  images: Mapping[str, method_lib.Images]  # of the tests
  data: training.Data
  rows: np.ndarray  # of the data that each seed drew, [s n]


class _Recipe(NamedTuple):
  """A method, ready to be trained."""

  method: method_lib.Method
  prompts: method_lib.Prompts
  recipe: presets.Recipe
  num_context: int | None
  table: method_lib.Prompts | None  # of outliers


def help_text() -> str:
  """What `jaxcal tune --help` prints."""
  return "\n".join([
      f"jaxcal tune: {ABOUT}.", "",
      "Draws the shots as published, trains every method on the base classes "
      "with all", "seeds at once, and answers for the test images of base and "
      "of new classes, each", "among the classes of its half. Writes tuned/ "
      "(safetensors and json), predictions/,", "results.jsonl, results.md and "
      "diagram-SET.svg. An interrupted run goes on where it", "stopped.", "",
      "Example:", f"  {EXAMPLE}", "",
      "Methods: " + ", ".join(_METHODS) + "; METHOD+dor", "",
      experiment.DATA_HELP, "",
      "Flags:", *experiment.flag_help(*experiment.SHARED_FLAGS), "",
      "Fields of the config, with their defaults:", *experiment.field_help()])


def main() -> None:
  """Runs the tuning that the flags describe."""
  config = experiment.checked_config(EXAMPLE)
  experiment.refuse_processes()
  for name in config.tune.name:
    _host(name, config.tune.preset)
  words = _vocabulary(config.tune, model=None)
  model = experiment.load_model(config.model)
  words = words or _vocabulary(config.tune, model)
  about = experiment.describe(config, model)
  output = experiment.output_folder(about)
  rows = []
  for data in config.data.name:
    task = _task(config, model, data, output / "features")
    _zero_shot(config, model, task, output / "predictions" / data, about)
    kept = _outliers(config, model, task, words)
    for name in config.tune.name:
      folder = output / "tuned" / data / name
      one = _prepare(config, model, task, name, kept)
      params = _trained(config, model, task, one, folder, f"{data}: {name}",
                        about | {"data": data, "method": name})
      _answer(config, model, task, one, params,
              output / "predictions" / data / name,
              about | {"data": data, "method": name})
    rows += _report(config, output, data, task, kept)
  _write_report(output, rows)


def _host(name, preset):
  """The method below the outliers; refuses names that there are not."""
  host = name.removesuffix(_DOR)
  if host not in _METHODS:
    raise ValueError(f"unknown method {name!r}; choose from: "
                     f"{', '.join(_METHODS)}, each also as METHOD+dor.")
  presets.recipe(host, preset)
  return host


def _vocabulary(config, model):
  """Outlier words; None where there are none, or they need the model."""
  if not any(name.endswith(_DOR) for name in config.name):
    return None
  source, _, folder = config.outliers.partition(":")
  if source == "wordnet":
    return outliers_lib.from_wordnet(folder or outliers_lib.WORDNET)
  if source == "tokenizer":
    return model and outliers_lib.from_tokenizer(model.tokenizer)
  return outliers_lib.from_file(config.outliers)


def _task(config, model, data, folder) -> _Task:
  """The shots of all seeds, and the test images of both halves."""
  load = lambda **changes: next(iter(experiment.load_sets(
      experiment.with_data(config, name=(data,), **changes)).values()))
  train, test = load(split="train", limit=0), load()
  if set(train.ids) & set(test.ids):
    raise ValueError(f"{data} has no split to train on: its images are those "
                     "to answer for, too")
  halves = dict(zip(_HALVES, protocol.halves(train.labels)))
  tests = {half: protocol.keep_classes(test, labels)
           for half, labels in halves.items()}
  drawn = []
  for seed in range(1, config.tune.num_seeds + 1):
    shots = protocol.draw_shots(
        train.labels, None, num_shots=config.tune.num_shots,
        num_classes=len(train.class_names), seed=seed).train
    kept, _ = protocol.keep_positions(train.labels[shots], halves["base"])
    drawn.append(shots[kept])
  union, rows = np.unique(np.stack(drawn), return_inverse=True)
  images = protocol.keep_classes(
      image_sets.take(train, union), halves["base"])
  return _Task(
      {half: tests[half].class_names for half in _HALVES}, tests,
      {half: _features(config, model, tests[half], folder / data / half)
       for half in _HALVES},
      training.Data(
          _features(config, model, images, folder / data / "train"),
          jnp.asarray(images.labels)),
      rows.reshape(len(drawn), -1))


def _features(config, model, images, folder):
  found = pooled.pooled_images(config, model, images, folder)
  embeddings = jnp.asarray(towers.project(
      jnp.asarray(found.activations),
      towers.image_projection(model.config, model.params), found.residual))
  return method_lib.Images(towers.normalize(embeddings), embeddings)


def _outliers(config, model, task, words):
  """The words to draw from; None where no method wants them."""
  if words is None:
    return None
  excluded = list(task.names["base"])
  if config.tune.exclude_new:
    excluded += task.names["new"]
  words = outliers_lib.exclude(words, excluded)
  features = lambda names: classes.prompts_of(model, names).zero_shot
  best = outliers_lib.rank(features(words), features(task.names["base"]),
                           config.tune.num_outliers)
  return [words[position] for position in np.asarray(best.positions)]


def _prepare(config, model, task, name, words) -> _Recipe:
  """A method with its recipe, its prompts and its outliers."""
  host = _host(name, config.tune.preset)
  recipe = presets.recipe(host, config.tune.preset)
  recipe = recipe._replace(**{
      key: value for key in ("num_epochs", "learning_rate", "batch_size")
      if (value := getattr(config.tune, key)) is not None})
  count = config.tune.num_context or recipe.num_context
  # "a photo of a" are four words.
  count, context = (None, classes.words_context(model)) if (
      recipe.from_words and count == 4) else (count or 4, None)
  method = _METHODS[host](
      logit_scale=jnp.exp(model.params["logit_scale"]), context=context)
  table = None
  if name.endswith(_DOR):
    weight = config.tune.outlier_weight
    method = dor.with_outliers(
        method, presets.outlier_weight(host) if weight is None else weight)
    table = classes.prompts_of(
        model, words, num_context=count, as_table=True)
  return _Recipe(method, _prompts(config, model, task, "base", count), recipe,
                 count, table)


def _prompts(config, model, task, half, num_context):
  return classes.prompts_of(
      model, task.names[half], num_context=num_context,
      template=config.data.template,
      max_bytes=int(config.memory_gb * 2**30))


def _trained(config, model, task, one, folder, label, about):
  """Parameters with a leading axis of seeds; goes on from what is saved."""
  seeds = np.arange(1, config.tune.num_seeds + 1)
  num_images, recipe = task.rows.shape[1], one.recipe
  steps = training.num_steps(num_images, recipe.batch_size)
  optimizer = _optimizer(recipe, steps)
  keys = jax.vmap(jax.random.key)(seeds)
  state = jax.vmap(lambda key: training.init(
      one.method, optimizer, one.prompts, key))(keys)
  losses = np.full((len(seeds), recipe.num_epochs), np.nan)
  state, losses = trees.load(folder / "state.npz", (state, losses))
  with experiment.progress(label, recipe.num_epochs, "epoch") as bar:
    bar.update(int(state.epoch[0]))
    for epoch in range(int(state.epoch[0]), recipe.num_epochs):
      order = jax.vmap(lambda s: training.shuffle(
          s, num_images, recipe.batch_size))(state)
      order = jax.vmap(lambda rows, o: jax.tree.map(lambda i: rows[i], o))(
          task.rows, order)
      state, parts = training.train_seeds(
          one.method, optimizer, state, one.prompts, task.data, order,
          _drawn(config, one, keys, epoch, steps))
      losses[:, epoch] = np.asarray(parts["loss"]).mean(1)
      if epoch + 1 == recipe.num_epochs or not (epoch + 1) % _EPOCHS_PER_SAVE:
        trees.save(folder / "state.npz", (state, losses))
      bar.set_postfix(loss=f"{losses[:, epoch].mean():.3f}", refresh=False)
      bar.update(1)
  if not np.isfinite(losses).all():
    raise ValueError(f"{label}: the loss is not finite; try a smaller "
                     "--config.tune.learning_rate")
  for number, seed in enumerate(seeds):
    _write(folder / f"seed-{seed}", state, losses, number,
           about | {"seed": int(seed), "num_context": one.num_context,
                    **{f"recipe.{key}": value
                       for key, value in recipe._asdict().items()}})
  return state.params


def _drawn(config, one, keys, epoch, steps):
  """Outliers of an epoch's steps, for every seed; as many as base classes."""
  if one.table is None:
    return None
  draw = outliers_lib.DRAWS[config.tune.draw]
  numbers = epoch * steps + jnp.arange(steps)
  rows = jax.vmap(lambda key: jax.vmap(lambda step: draw(
      jax.random.fold_in(key, 1), step, num_words=len(one.table.zero_shot),
      num_drawn=len(one.prompts.zero_shot)))(numbers))(keys)
  return training.Outliers(one.table, rows)


def _optimizer(recipe, steps):
  rate = training.schedule(recipe.learning_rate, recipe.num_epochs, steps)
  return {"sgd": training.sgd, "adam": training.adam,
          "adamw": training.adamw}[recipe.optimizer](rate)


def _write(path, state, losses, number, about):
  """One seed's parameters as safetensors, with all that made them as json."""
  from safetensors import numpy as safetensors
  params = jax.tree.map(lambda x: np.asarray(x[number]), dict(state.params))
  flat = traverse_util.flatten_dict(params, sep=".")
  predictions_lib.write_whole(
      predictions_lib.with_ending(path, "safetensors"),
      safetensors.save({name: np.ascontiguousarray(value)
                        for name, value in flat.items()}))
  about = about | {"losses": losses[number].tolist()}
  predictions_lib.write_whole(
      predictions_lib.with_ending(path, "json"),
      (json.dumps(about, indent=1) + "\n").encode())


def _zero_shot(config, model, task, folder, about):
  """Answers of the data set's own template, without tuning."""
  scale = jnp.exp(model.params["logit_scale"])
  for half in _HALVES:
    prompts = _prompts(config, model, task, half, None)
    logits = scale * task.images[half].features @ prompts.target.T
    _save(folder / "zero_shot" / f"{half}-1", task.tests[half], logits, about |
          {"method": "zero_shot",
           "fd_score": float(protocol.fd_score(prompts.target))})


def _answer(config, model, task, one, params, folder, about):
  """Answers of every seed for the test images of both halves."""
  for half in _HALVES:
    prompts = _prompts(config, model, task, half, one.num_context)
    for number in range(config.tune.num_seeds):
      own = jax.tree.map(lambda x, i=number: x[i], params)
      logits = _logits(one.method, own, prompts, task.images[half])
      _save(folder / f"{half}-{number + 1}", task.tests[half], logits, about |
            _divergence(one.method, own, prompts, task.images[half]))


@jax.jit
def _logits(method, params, prompts, images):
  return method.logits(params, prompts, images)


def _divergence(method, params, prompts, images):
  """The FD score of tuned prompts, where they are the same for all images."""
  if method.text_features is None:
    return {}
  first = jax.tree.map(lambda x: x[:1], images)
  features = method.text_features(params, prompts, first)
  return {"fd_score": float(protocol.fd_score(
      features.reshape(-1, features.shape[-1])))}


def _save(path, images, logits, about):
  predictions_lib.save(predictions_lib.Predictions(
      np.asarray(logits, np.float32), images.labels, images.ids,
      images.class_names, {}, about), path)


def _report(config, output, data, task, kept):
  """Rows of one data set, and its reliability diagrams of base and new."""
  conventions = experiment.conventions(config.metrics)
  shared = None
  if kept is not None:
    shared = len(outliers_lib.overlap(kept, task.names["new"]))
  rows, panels = [], {}
  for name, seeds in {"zero_shot": 1, **dict.fromkeys(
      config.tune.name, config.tune.num_seeds)}.items():
    folder = output / "predictions" / data / name
    answers = {half: [predictions_lib.load(folder / f"{half}-{seed}")
                      for seed in range(1, seeds + 1)] for half in _HALVES}
    rows.append({"data": data, "method": name, "seeds": seeds,
                 "shared_names": shared if name.endswith(_DOR) else None,
                 "num_new": len(task.names["new"]),
                 **_scores(answers, conventions)})
    for half in _HALVES:
      bins = [summary.bins_of(one, conventions) for one in answers[half]]
      panels[f"{name}\n{half}"] = jax.tree.map(lambda *x: sum(x), *bins)
  figure = figures.svg(figures.reliability_diagrams(panels))
  predictions_lib.write_whole(output / f"diagram-{data}.svg", figure.encode())
  return rows


def _scores(answers, conventions):
  """Base, new and both means over seeds, by score and name of the number."""
  found = {}
  of_half = {half: [summary.estimate(one, conventions) for one in answers[half]]
             for half in _HALVES}
  for score in of_half["base"][0]:
    both = protocol.summarise(*(
        np.array([one[score] for one in of_half[half]]) for half in _HALVES))
    for number, spread in both._asdict().items():
      found[f"{score}_{number}"] = spread.mean
      found[f"{score}_{number}_std"] = spread.std if len(
          of_half["base"]) > 1 else None
  for half in _HALVES:
    fd = [one.settings.get("fd_score") for one in answers[half]]
    found[f"fd_score_{half}"] = None if None in fd else float(np.mean(fd))
    found[f"gap_{half}"] = float(np.mean(
        [summary.confidence_gap(one) for one in answers[half]]))
  return found


def _write_report(output, rows):
  text = "".join(json.dumps(row) + "\n" for row in rows)
  predictions_lib.write_whole(output / "results.jsonl", text.encode())
  text = "\n\n".join([
      tables.markdown(rows, tables.BASE_TO_NEW),
      "Mean and standard deviation over seeds. HM, AM: harmonic and arithmetic "
      "mean of base and new. FD: mean distance of class features to their "
      "nearest five. new names: how many of the new classes' names are among "
      "the outliers."])
  predictions_lib.write_whole(output / "results.md", f"{text}\n".encode())
  print(f"{text}\n\nWritten to {output}: results.md, results.jsonl, "
        "diagram-*.svg, tuned/, predictions/")
