"""Words to choose outliers from, encoded once for all data sets."""

from collections.abc import Callable, Sequence
import pathlib
import tempfile
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxcal import parts
from jaxcal import sharding
from jaxcal.clip import checkpoint
from jaxcal.data import image_set as image_sets
from jaxcal.storage import identity
from jaxcal.tuning import classes
from jaxcal.tuning import methods
from jaxcal.tuning import outliers
from jaxcal.tuning import task as task_lib
from jaxcal.typing import Float

_WORDS_AT_ONCE = 2**14


class Vocabulary(NamedTuple):
  """Words, and their unit-norm features in "a photo of a {}."."""

  words: Sequence[str]
  features: Float[np.ndarray, "n d"]


class Candidates(NamedTuple):
  """What methods draw outliers from, for a data set.

  Attributes:
    words: Words; None where no method draws any.
    shared: Names of new classes among the words.
    images: Images of other things; None where no method draws any.
  """

  words: Sequence[str] | None = None
  shared: tuple[str, ...] | None = None
  images: image_sets.ImageSet | None = None

  def of(
      self, spec: methods.Spec) -> Sequence[str] | image_sets.ImageSet | None:
    """What a method draws from, as `fit.fit` takes it."""
    return {"names": self.words, "images": self.images, None: None}[
        spec.outliers]

  def about(self, spec: methods.Spec) -> dict[str, Any]:
    """How many words it draws from, and which are new classes' names."""
    if spec.outliers != "names":
      return {}
    return {"outliers": {"number": len(self.words or ()),
                         "names_of_new_classes": self.shared}}


def encode(
    model: checkpoint.Model,
    words: Sequence[str],
    *,
    num_context: int = 16,
    folder: pathlib.Path | None = None,
    together: bool = False,
    on_words: Callable[[int, int], None] | None = None,
) -> Vocabulary:
  """The words that the model has room for, with their features.

  Args:
    model: The frozen model.
    words: All words, such as those of `outliers.from_wordnet`.
    num_context: Number of context vectors that will stand in front of a word,
      at most.
    folder: Folder that keeps the features, each vocabulary and model in one of
      its own; none if None.
    together: Whether all processes make this call at once, and share the words
      out; it takes a folder that all of them see.
    on_words: Function called with (words done, words in all).

  Raises:
    ValueError: It has room for none.
  """
  fitting = classes.fitting(model, words, num_context)
  if not fitting:
    raise ValueError(f"none of {len(words)} outlier words has room in the text "
                     f"tower beside {num_context} context vectors; give "
                     "shorter ones")
  with tempfile.TemporaryDirectory() as scratch:
    place = pathlib.Path(scratch)
    if folder is not None:
      place = folder / identity.of_lines([
          str(identity.COMPUTATION), model.fingerprint,
          model.config.text.precision, *fitting])
    parts.open_folder(place, fitting, ("text",))
    todo = parts.missing(place, len(fitting))
    with sharding.shared_out(
        todo, _WORDS_AT_ONCE, together=together) as own:
      done = len(fitting) - len(own)
      _report(on_words, done, len(fitting))
      for first in range(0, len(own), _WORDS_AT_ONCE):
        rows = own[first:first + _WORDS_AT_ONCE]
        found = classes.prompts_of(model, [fitting[row] for row in rows])
        parts.write(place, rows, {
            "text": {"features": np.asarray(found.zero_shot)}})
        _report(on_words, done + first + len(rows), len(fitting))
    return Vocabulary(fitting, parts.gather(place, "text")["features"])


def nearest(
    vocabulary: Vocabulary,
    model: checkpoint.Model,
    task: task_lib.Task,
    *,
    num_kept: int = 5000,
    exclude_new: bool = False,
) -> list[str]:
  """The words to draw from: those nearest to the trained classes, not these.

  Args:
    vocabulary: Encoded vocabulary from `encode`.
    model: The frozen model.
    task: The data set.
    num_kept: Number of words to keep; all where there are not so many.
    exclude_new: Whether names of the new classes are left out, too. As
      published, they may be among the outliers; see `outliers.overlap`.

  Raises:
    ValueError: None is left without the names of the classes.
  """
  excluded = list(task.class_names)
  if exclude_new and "new" in task.tests:
    excluded += task.tests["new"].class_names
  words = outliers.exclude(vocabulary.words, excluded)
  kept = set(words)
  rows = [word in kept for word in vocabulary.words]
  best = outliers.rank(
      jnp.asarray(vocabulary.features[rows]),
      classes.prompts_of(model, task.class_names).zero_shot, num_kept)
  return [words[position] for position in np.asarray(best.positions)]


def candidates(
    vocabulary: Vocabulary,
    model: checkpoint.Model,
    tasks: Sequence[task_lib.Task],
    *,
    images: image_sets.ImageSet | None = None,
    num_kept: int = 5000,
    exclude_new: bool = False,
) -> dict[str, Candidates]:
  """What methods draw from, by data set.

  Args:
    vocabulary: Encoded vocabulary from `encode`.
    model: The frozen model.
    tasks: The data sets.
    images: Images of other things, for methods that draw images.
    num_kept: Number of words to keep.
    exclude_new: Whether names of the new classes are left out.

  Raises:
    ValueError: See `nearest`.
  """
  found = {}
  for task in tasks:
    words = nearest(vocabulary, model, task, num_kept=num_kept,
                    exclude_new=exclude_new)
    new = task.tests["new"].class_names if "new" in task.tests else ()
    found[task.name] = Candidates(words, outliers.overlap(words, new), images)
  return found


def _report(on_words, done, total):
  if on_words is not None:
    on_words(done, total)
