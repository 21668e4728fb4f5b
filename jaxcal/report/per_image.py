"""What a method predicts of each image, and what that shows of a set.

Where the failures are: curves of risk against coverage, classes that are hard,
mistakes that were made with confidence. NumPy, on the host.
"""

from collections.abc import Mapping, Sequence
import csv
import io
from typing import Any, NamedTuple

import numpy as np

from jaxcal.metrics import binning
from jaxcal.predictions import Predictions
from jaxcal.report import inputs
from jaxcal.report import summary
from jaxcal.typing import Bool
from jaxcal.typing import Float
from jaxcal.typing import Int

# No more points than a figure can show.
_MOST_POINTS = 200


class Classes(NamedTuple):
  """True and predicted classes of the images.

  Attributes:
    labels: True classes.
    predicted: Predicted classes.
    names: Names of the classes; none where not known.
  """

  labels: Int[np.ndarray, "n"]
  predicted: Int[np.ndarray, "n"]
  names: tuple[str, ...] = ()

  def name_of(self, label: Any) -> str:
    """Name of a class, its number where it has none."""
    return self.names[label] if self.names else str(label)


class PerImage(NamedTuple):
  """Predictions of one method, an entry for each image.

  Attributes:
    confidence: Probability of the predicted class.
    correct: Whether it is the true one.
    ids: Ids; None where not known.
    classes: Classes; None where only confidences are known.
  """

  confidence: Float[np.ndarray, "n"]
  correct: Bool[np.ndarray, "n"]
  ids: tuple[str, ...] | None = None
  classes: Classes | None = None

  def bins(self, conventions: summary.Conventions) -> binning.BinStatistics:
    """Bins of the reliability diagram."""
    return summary.bins_of(self.confidence, self.correct, conventions)


class Curve(NamedTuple):
  """Error among the most confident images, by their share."""

  coverage: Float[np.ndarray, "points"]
  risk: Float[np.ndarray, "points"]


class Mistake(NamedTuple):
  """An image that was taken for something else.

  Attributes:
    id: Id of the image.
    label: Name of its class.
    predicted: Class that it was taken for by most, and by the most confident
      of them.
    methods: Names of the methods that are mistaken.
    num_methods: Number of methods that saw the image.
    confidence: Lowest and highest confidence of these.
  """

  id: str
  label: str
  predicted: str
  methods: tuple[str, ...]
  num_methods: int
  confidence: tuple[float, float]


def of(predictions: Predictions | inputs.Given) -> PerImage:
  """What is known of each image.

  Raises:
    ValueError: The predictions have no labels.
  """
  confidence, correct = summary.confidence_and_hits(predictions)
  if isinstance(predictions, inputs.Given):
    if predictions.kind == "confidences":
      return PerImage(confidence, correct, predictions.ids)
    values, names = predictions.values, None
  else:
    values, names = predictions.logits, predictions.class_names
  return PerImage(confidence, correct, predictions.ids, Classes(
      np.asarray(predictions.labels), values.argmax(axis=-1), names or ()))


def risk_coverage(one: PerImage) -> Curve:
  """The error of the images with at least a confidence, against their share.

  A point for each confidence that occurs, so that the order of images with one
  confidence says nothing; of more than can be drawn, some.
  """
  order = np.argsort(-one.confidence, kind="stable")
  confidence = one.confidence[order]
  number = np.arange(1, len(order) + 1)
  risk = np.cumsum(~one.correct[order]) / number
  last = np.append(confidence[1:] < confidence[:-1], True)
  points = np.flatnonzero(last)
  if len(points) > _MOST_POINTS:
    points = points[np.linspace(
        0, len(points) - 1, _MOST_POINTS).round().astype(int)]
  return Curve(number[points] / len(order), risk[points])


def hardest_classes(
    by_method: Mapping[str, PerImage], number: int = 10
) -> list[dict[str, Any]]:
  """The classes that the methods know least, all methods counted alike.

  Args:
    by_method: Predictions by the name of the method. Those without ids or
      classes, and those of other images than the first, are left out.
    number: Number of classes.

  Returns:
    Rows, the hardest first: `class_name`, `num_images`, `accuracy` (mean over
    methods) with `accuracy_least` and `accuracy_most` (lowest and highest of a
    method), `confidence_gap` (mean confidence minus accuracy), `taken_for` (the
    class that is predicted most often in its place) and `taken_for_share` (of
    the class's predictions).
  """
  known = [(one, one.classes) for one in _comparable(by_method).values()]
  if not known:
    return []
  truth = known[0][1]
  labels = np.unique(truth.labels)
  accuracy = np.array([[one.correct[truth.labels == label].mean()
                        for label in labels] for one, _ in known])
  hardest = np.argsort(accuracy.mean(axis=0), kind="stable")[:number]
  return [_class_row(known, labels[position], accuracy[:, position])
          for position in hardest]


def _class_row(known, label, accuracy):
  truth = known[0][1]
  own = truth.labels == label
  confidence = np.mean([one.confidence[own].mean() for one, _ in known])
  predicted = np.concatenate([classes.predicted[own] for _, classes in known])
  wrong, counts = np.unique(predicted[predicted != label], return_counts=True)
  row = {"class_name": truth.name_of(label), "num_images": int(own.sum()),
         "accuracy": float(accuracy.mean()),
         "accuracy_least": float(accuracy.min()),
         "accuracy_most": float(accuracy.max()),
         "confidence_gap": float(confidence - accuracy.mean())}
  if not len(wrong):
    return row
  return row | {"taken_for": truth.name_of(wrong[counts.argmax()]),
                "taken_for_share": float(counts.max() / len(predicted))}


def lowest_by_chance(
    labels: Int[np.ndarray, "n"], correct: Bool[np.ndarray, "n"]) -> float:
  """Accuracy that the hardest class has where all classes are equally hard.

  The median over data sets of the lowest accuracy of a class, if every image
  were right with the same probability. Hardest classes are chosen for their low
  accuracy, so that some of it is chance.
  """
  from scipy import stats
  _, sizes = np.unique(labels, return_counts=True)
  levels = np.unique(np.concatenate(
      [np.arange(size + 1) / size for size in set(sizes.tolist())]))
  above = np.ones(len(levels))
  for size in sizes:
    # At least the level: more hits than all that are below it.
    hits = np.ceil(levels * size - 1e-9) - 1
    above *= stats.binom.sf(hits, size, correct.mean())
  return float(levels[np.flatnonzero(above >= 0.5).max()])


def confident_mistakes(
    by_method: Mapping[str, PerImage], number: int = 8) -> list[Mistake]:
  """The images that were taken for others with the most confidence.

  Args:
    by_method: Predictions by the name of the method, as `hardest_classes` has
      them.
    number: Number of images at most.

  Returns:
    Those with the highest confidence in wrong classes, a mean over all methods
    to which a right one adds nothing.
  """
  known = _comparable(by_method)
  if not known:
    return []
  wrong = np.stack([np.where(one.correct, 0, one.confidence)
                    for one in known.values()])
  weight = wrong.mean(axis=0)
  order = np.argsort(-weight, kind="stable")[:number]
  return [_mistake(known, wrong[:, image], image)
          for image in order if weight[image] > 0]


def _comparable(by_method):
  """Methods with classes, of the same images as the first of them."""
  known = {name: one for name, one in by_method.items()
           if one.classes is not None and one.ids is not None}
  return {name: one for name, one in known.items()
          if one.ids == next(iter(known.values())).ids}


def _mistake(known, wrong, image):
  first = next(iter(known.values()))
  votes: dict[int, float] = {}
  for one, confidence in zip(known.values(), wrong):
    predicted = one.classes.predicted[image]
    votes[predicted] = votes.get(predicted, 0) + confidence
  confidence = wrong[wrong > 0].tolist()
  return Mistake(
      first.ids[image], first.classes.name_of(first.classes.labels[image]),
      first.classes.name_of(max(votes, key=lambda label: votes[label])),
      tuple(name for name, value in zip(known, wrong) if value > 0),
      len(known),
      (min(confidence), max(confidence)))


def as_csv(by_method: Mapping[str, PerImage]) -> str:
  """A line for each method and image.

  Columns: method, id, label, predicted, confidence, correct; empty where not
  known. Classes by their names, where there are names.
  """
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\n")
  writer.writerow(("method", "id", "label", "predicted", "confidence",
                   "correct"))
  for method, one in by_method.items():
    empty: Sequence[str] = [""] * len(one.confidence)
    truth, predicted = (empty, empty) if one.classes is None else (
        [one.classes.name_of(label) for label in labels]
        for labels in one.classes[:2])
    writer.writerows(zip(
        [method] * len(empty), one.ids or empty, truth, predicted,
        one.confidence.tolist(), one.correct.astype(int).tolist()))
  return text.getvalue()
