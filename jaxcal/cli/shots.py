"""What `jaxcal tune` trains and tests on: shots, test images, outliers."""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from jaxcal import config as config_lib
from jaxcal import parts as parts_lib
from jaxcal.cli import experiment
from jaxcal.cli import pooled
from jaxcal.cli import tuned
from jaxcal.clip import checkpoint
from jaxcal.data import image_set as image_sets
from jaxcal.features import extract
from jaxcal.tuning import classes
from jaxcal.tuning import method as method_lib
from jaxcal.tuning import outliers as outliers_lib
from jaxcal.tuning import protocol
from jaxcal.typing import as_numpy
from jaxcal.typing import Float
from jaxcal.typing import Int

# What is answered for, by which classes are trained on; the first is trained.
HALVES = {"base": ("base", "new"), "all": ("all",)}
_WORDS_AT_ONCE = 2**14


class Task(NamedTuple):
  """One data set.

  Attributes:
    name: Of the set.
    tests: The test images by half of the classes.
    train: Images of the trained classes that some seed drew.
    rows: Of these, what each seed drew, in the order drawn.
    template: For what is not tuned.
  """

  name: str
  tests: Mapping[str, image_sets.ImageSet]
  train: image_sets.ImageSet
  rows: Int[np.ndarray, "s n"]
  template: str

  @property
  def class_names(self) -> tuple[str, ...]:
    """Of the training."""
    return self.train.class_names


def task(config: config_lib.ExperimentConfig, name: str) -> Task:
  """The shots of all seeds and the test images of a data set.

  Raises:
    ValueError: too few images, none to train on, or ones of other classes.
  """
  load = lambda **changes: next(iter(experiment.load_sets(
      experiment.with_data(
          config, **{"name": (name,), **changes})).values()))
  train, test = _training_set(config, load), load()
  if set(train.ids) & set(test.ids):
    raise ValueError(f"{name} has no split to train on: its images are those "
                     "to answer for, too; name other ones with "
                     "--config.tune.train=...")
  if train.class_names != test.class_names:
    raise ValueError(
        f"{train.name} and {test.name} should have the same classes, but one "
        f"has {len(train.class_names)} and the other {len(test.class_names)}, "
        "or they differ in name")
  labels = _labels(config.tune.classes, train.labels)
  trained = next(iter(labels.values()))
  drawn = []
  for seed in range(1, config.tune.num_seeds + 1):
    chosen = protocol.draw_shots(
        train.labels, None, num_shots=config.tune.num_shots,
        num_classes=len(train.class_names), seed=seed).train
    kept, _ = protocol.keep_positions(train.labels[chosen], trained)
    drawn.append(chosen[kept])
  union, rows = np.unique(np.stack(drawn), return_inverse=True)
  return Task(
      test.name,
      {half: protocol.keep_classes(test, of_half)
       for half, of_half in labels.items()},
      protocol.keep_classes(image_sets.take(train, union), trained),
      rows.reshape(len(drawn), -1), tuned.template(config, name))


def images(
    config: config_lib.ExperimentConfig,
    model: checkpoint.Model,
    data: image_sets.ImageSet,
    folder: pathlib.Path,
    *,
    with_pixels: bool,
) -> method_lib.Images:
  """Training images, each in all of its views, one after the other.

  Args:
    config: Of the experiment; says how many augmented views stand in for the
      clean one.
    model: The frozen one.
    data: The images.
    folder: Keeps their features.
    with_pixels: Whether the views themselves are wanted, too.
  """
  parts_lib.open_folder(folder, data.ids, ("image",))
  for asked, views in _views(
      config, model, data, parts_lib.missing(folder, len(data.ids))):
    rows = model.pooled(views.reshape(-1, *views.shape[2:]))
    pooled.write(folder, asked, "image", jax.tree.map(
        lambda x: as_numpy(x).reshape(*views.shape[:2], -1), rows))
  found = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]),
                       pooled.gather(folder, "image"))
  pixels = None
  if with_pixels:
    pixels = jnp.concatenate([views for _, views in _views(
        config, model, data, np.arange(len(data.ids)))])
    pixels = pixels.reshape(-1, *pixels.shape[2:])
  return tuned.from_pooled(model, found)._replace(pixels=pixels)


def check_pixels(
    config: config_lib.ExperimentConfig,
    model: checkpoint.Model,
    data: image_sets.ImageSet,
) -> None:
  """Whether the pixels of all views of training images are few enough to hold.

  Raises:
    ValueError: they need more than the config's `memory_gb`.
  """
  size, count = model.preprocess.crop, max(1, config.tune.num_views)
  gigabytes = len(data.ids) * count * size**2 * 3 / 2**30
  if gigabytes > config.memory_gb:
    raise ValueError(
        f"{len(data.ids)} training images in {count} views need "
        f"{gigabytes:.1f} GB, but config.memory_gb is {config.memory_gb:g}; "
        "raise it, or take fewer seeds, shots or views")


def outlier_images(
    config: config_lib.ExperimentConfig) -> image_sets.ImageSet:
  """The images of other things that the config names."""
  found, = experiment.load_sets(experiment.with_data(
      config, name=(config.tune.outlier_images,))).values()
  return found


def templates(path: str) -> list[str]:
  """The lines of a file, each a template.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: a line without exactly one {}, or no lines.
  """
  lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
  broken = [line for line in lines if line.count("{}") != 1]
  if broken or not lines:
    raise ValueError(f"{path} must have one template per line, each with "
                     f"exactly one {{}}, but has {broken[:1] or 'no lines'}")
  return lines


def outlier_words(
    config: config_lib.TuneConfig, model: checkpoint.Model | None
) -> list[str] | None:
  """The words to choose outliers from; None without a model where they need it.

  Raises:
    FileNotFoundError: no WordNet, or no such file; says how to get it.
  """
  source, _, folder = config.outliers.partition(":")
  if source == "wordnet":
    return outliers_lib.from_wordnet(folder or outliers_lib.WORDNET)
  if source == "tokenizer":
    return model and outliers_lib.from_tokenizer(model.tokenizer)
  return outliers_lib.from_file(config.outliers)


class Vocabulary(NamedTuple):
  """Words to choose outliers from, and their unit-norm features."""

  words: Sequence[str]
  features: Float[np.ndarray, "n d"]


def vocabulary(
    model: checkpoint.Model,
    words: Sequence[str],
    num_context: int,
    folder: pathlib.Path,
) -> Vocabulary:
  """The words that the model has room for; encoded once for all data sets.

  Args:
    model: The frozen one.
    words: All of them.
    num_context: Most context vectors that will stand before them.
    folder: Keeps their features.

  Raises:
    ValueError: it has room for none.
  """
  fitting = classes.fitting(model, words, num_context)
  if not fitting:
    raise ValueError(f"none of {len(words)} outlier words has room in the text "
                     f"tower beside {num_context} context vectors; give a file "
                     "of shorter ones with --config.tune.outliers")
  if len(fitting) < len(words):
    tqdm.tqdm.write(f"{len(words) - len(fitting)} of {len(words)} outlier "
                    "words have no room in the text tower")
  parts_lib.open_folder(folder, fitting, ("text",))
  todo = parts_lib.missing(folder, len(fitting))
  with experiment.progress("outlier words", len(fitting), "word") as bar:
    bar.update(len(fitting) - len(todo))
    for positions in extract.batches_of(todo, _WORDS_AT_ONCE):
      found = classes.prompts_of(model, [fitting[i] for i in positions])
      parts_lib.write(folder, positions, {
          "text": {"features": np.asarray(found.zero_shot)}})
      bar.update(len(positions))
  return Vocabulary(fitting, parts_lib.gather(folder, "text")["features"])


def nearest_outliers(
    config: config_lib.TuneConfig,
    model: checkpoint.Model,
    data: Task,
    all_words: Vocabulary,
) -> list[str]:
  """The words to draw from: those nearest to the trained classes, not these.

  Raises:
    ValueError: none is left without the names of the classes.
  """
  excluded = list(data.class_names)
  if config.exclude_new and "new" in data.tests:
    excluded += data.tests["new"].class_names
  words = outliers_lib.exclude(all_words.words, excluded)
  kept = set(words)
  rows = [word in kept for word in all_words.words]
  best = outliers_lib.rank(
      jnp.asarray(all_words.features[rows]),
      classes.prompts_of(model, data.class_names).zero_shot,
      config.num_outliers)
  return [words[position] for position in np.asarray(best.positions)]


def _training_set(config, load):
  if config.tune.train is None:
    return load(split="train", limit=0)
  return load(name=(config.tune.train,), limit=0)


def _labels(which, train_labels):
  if which == "base":
    return dict(zip(HALVES[which], protocol.halves(train_labels)))
  return {"all": np.unique(train_labels)}


def _views(config, model, data, positions):
  """Positions and the views [b v s s 3] that training may see of them."""
  if not len(positions):
    return
  count = config.tune.num_views
  recipe = experiment.recipe(
      dataclasses.replace(config.views, number=count + 1), model)
  size = max(1, config.batch_size * pooled.IMAGES_PER_IMAGE // (count + 1))
  asked = extract.batches_of(positions, size)
  with experiment.progress(f"{data.name}: training images",
                           len(positions)) as bar:
    for batch, (views, mask) in zip(asked, extract.views_from_images(
        data, asked, recipe=recipe, seed=config.views.seed, batch_size=size,
        num_threads=config.num_threads)):
      # Augmented views stand in for the clean one, which is the first.
      yield batch, views[mask, min(1, count):]
      bar.update(len(batch))
