"""Predictions recalibrated by other predictions of the same model.

The one module of the room that knows `predictions`: class names and ids are
looked at here, so that calibrators are functions of arrays.
"""

from collections.abc import Sequence
from typing import Any, overload
import warnings

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal import stages
from jaxcal.predictions import LOGIT_SCALE
from jaxcal.predictions import Predictions
from jaxcal.recalibration import base
from jaxcal.recalibration import temperature
from jaxcal.typing import AnyArray
from jaxcal.typing import as_numpy
from jaxcal.typing import Bool
from jaxcal.typing import Float
from jaxcal.typing import Integer
from jaxcal.typing import Scores

# Of the images to be recalibrated, and of those to fit to.
_Given = Predictions | base.Evidence | Scores
_Arrays = tuple[
    Float[Any, "m j"] | Sequence[Any], Integer[Any, "m"] | Sequence[Any]]
_Fitted = Predictions | base.Evidence | _Arrays

# Numbers of an array of which settings, read by people, tell the shape alone.
_LONG = 10_000

_TARGET = "the images to be recalibrated"
_FITTED = "the images to fit to"


@overload
def recalibrate(
    predictions: Predictions,
    on: Predictions | None = None,
    recalibrator: base.Calibrator = temperature.Temperature(),
) -> Predictions:
  ...


@overload
def recalibrate(
    predictions: base.Evidence | Scores,
    on: base.Evidence | _Arrays | None = None,
    recalibrator: base.Calibrator = temperature.Temperature(),
) -> Float[AnyArray, "n k"]:
  ...


def recalibrate(
    predictions: _Given,
    on: _Fitted | None = None,
    recalibrator: base.Calibrator = temperature.Temperature(),
) -> Predictions | Float[AnyArray, "n k"]:
  """Fits a calibrator to labelled images and applies it to others.

  Args:
    predictions: Predictions of the images to be recalibrated: `Predictions`, or
      logits as an array of numpy, jax or torch or as lists, or the arrays of
      `base.Evidence`.
    on: Predictions of the labelled images to fit to, by the same model and
      method; in the same form, with arrays as a pair of logits and labels.
      Calibrators without a fit do not look at it.
    recalibrator: The calibrator, `Temperature()` if not given.

  Returns:
    Of `Predictions`: the same with other logits, and in their settings
    `recalibrator` (its name) and `recalibration` (`parameters`, of long arrays
    the shape; `num_images`, `fitted_on`: the settings' name of that data,
    `notes`: what the fit rests on); where the settings have the stages, these,
    too. Of arrays: the logits alone, as an array of numpy or jax.

    Predictions that were recalibrated before can be again: the names are then
    joined by "+", and `recalibration` tells of the last one, and under `before`
    of those before it.

  Raises:
    ValueError: Classes that differ, an image in both, no labels, missing
      evidence, or a calibrator whose logits have another shape, are not finite
      or change predictions though it says that it keeps them.
    TypeError: One of both are `Predictions`, the other one arrays; labels that
      are not integers; something that is no calibrator.

  Warns:
    base.FitWarning: each of the notes.
  """
  check(predictions, on, recalibrator)
  one = recalibrator.recalibrator()
  evidence = _evidence(predictions)
  fit = base.Fit({})
  if one.fit is not None:
    fit = one.fit(_evidence(on))
  logits = one.apply(fit.parameters, evidence)
  base.check_logits(one, evidence.logits, logits)
  for note in fit.notes:
    warnings.warn(f"{one.name}: {note}", base.FitWarning, stacklevel=2)
  if isinstance(predictions, Predictions):
    logits = np.asarray(logits, np.float32)
  if one.keeps_prediction:
    logits = base.told_apart(evidence.logits, logits)
  if not isinstance(predictions, Predictions):
    return logits
  # The logits are no longer cosines times that scale.
  before = {name: value for name, value in predictions.settings.items()
            if name != LOGIT_SCALE}
  name = "+".join(filter(None, (before.get("recalibrator"), one.name)))
  about = _about(fit, on if one.fit and isinstance(on, Predictions) else None)
  if "recalibration" in before:
    about["before"] = before["recalibration"]
  return predictions._replace(
      logits=np.asarray(logits),
      settings={**before, **_stages(before, name), "recalibrator": name,
                "recalibration": about})


def recalibrate_quietly(
    predictions: Predictions, on: Predictions | None,
    recalibrator: base.Calibrator
) -> Predictions:
  """`recalibrate` for a report, which prints the notes: nothing warns.

  Args:
    predictions: See `recalibrate`.
    on: See `recalibrate`.
    recalibrator: See `recalibrate`.

  Returns:
    The recalibrated predictions, the fitted numbers in their settings, too.

  Raises:
    ValueError: See `recalibrate`.
  """
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", base.FitWarning)
    found = recalibrate(predictions, on, recalibrator)
  return found._replace(settings={**found.settings, **numbers(found)})


def numbers(predictions: Predictions) -> dict[str, float]:
  """What was fitted to recalibrate predictions, apart from arrays."""
  fitted = predictions.settings["recalibration"]["parameters"]
  return {name: value for name, value in fitted.items()
          if isinstance(value, (int, float))}


def check(
    predictions: _Given,
    on: _Fitted | None,
    recalibrator: base.Calibrator,
) -> None:
  """Refuses what `recalibrate` refuses, without the fit.

  Args:
    predictions: See `recalibrate`.
    on: See `recalibrate`.
    recalibrator: See `recalibrate`.

  Raises:
    ValueError: See `recalibrate`.
    TypeError: See `recalibrate`.
  """
  if isinstance(recalibrator, type) or not hasattr(
      recalibrator, "recalibrator"):
    raise TypeError("expected a calibrator, such as jaxcal.Temperature(), got "
                    f"{recalibrator!r}")
  one = recalibrator.recalibrator()
  evidence = _evidence(predictions)
  broken = ~np.isfinite(np.asarray(evidence.logits)).all(axis=1)
  if broken.any():
    raise ValueError(f"{_TARGET} must have finite logits, but {broken.sum()} "
                     f"of {len(broken)} do not, the first in row "
                     f"{int(broken.argmax())}")
  base.check_needs(one, evidence, of=_TARGET)
  if one.fit is None:
    return
  if on is None:
    raise ValueError(f"{one.name} is fitted to other images than those that it "
                     "recalibrates; give their predictions as `on`")
  if isinstance(predictions, Predictions) != isinstance(on, Predictions):
    raise TypeError("expected Predictions twice, or arrays twice, but got "
                    f"{type(predictions).__name__} to recalibrate and "
                    f"{type(on).__name__} to fit to")
  base.check_needs(one, _evidence(on), of=_FITTED, for_fit=True)
  if one.same_classes:
    _check_classes(one, predictions, on)
  if isinstance(predictions, Predictions):
    _check_other_images(predictions, on)


def draw(
    labels: Integer[AnyArray, "n"], share: float, *, seed: int
) -> Bool[np.ndarray, "n"]:
  """Picks images at random to fit to, so that the others can be judged by.

  From each class, as near as whole images can be, the share that is asked for:
  images are put in line, class after class, shuffled within each, and picked at
  equal distances from a random start.

  Args:
    labels: True classes, at least two images.
    share: Share of the images, in (0, 1); at least one is picked and one is
      left.
    seed: Seed of the order and of the start.

  Returns:
    Whether each image is picked.

  Raises:
    ValueError: A share outside (0, 1), or fewer than two images.
  """
  n = len(labels)
  if not 0 < share < 1:
    raise ValueError(f"expected a share in (0, 1), got {share:g}")
  if n < 2:
    raise ValueError(f"{n} images cannot be divided into some to fit to and "
                     "others to be judged by; give at least two")
  count = min(max(1, round(share * n)), n - 1)
  random = np.random.default_rng(seed)
  order = random.permutation(n)
  line = order[np.argsort(np.asarray(labels)[order], kind="stable")]
  # As fractions of count, so that no rounding picks an image twice.
  picked = np.arange(count) * n // count + random.integers(n)
  chosen = np.zeros(n, bool)
  chosen[line[picked % n]] = True
  return chosen


def _evidence(given) -> base.Evidence:
  """Arrays alone, of whatever form they come in."""
  if isinstance(given, base.Evidence):
    return given
  if isinstance(given, Predictions):
    return base.Evidence(given.logits, given.labels, **given.evidence)
  logits, labels = given if isinstance(given, tuple) else (given, None)
  logits = logits if isinstance(logits, jax.Array) else as_numpy(logits)
  if logits.ndim != 2 or not jnp.issubdtype(logits.dtype, jnp.number):
    raise ValueError(
        "expected Predictions, base.Evidence, logits [images, classes] or, to "
        "fit to, a pair of logits and labels, but these are of type "
        f"{logits.dtype} and shape {logits.shape}")
  return base.Evidence(logits, None if labels is None else as_numpy(labels))


def _check_classes(one, predictions, on):
  sizes = [_evidence(given).logits.shape[-1] for given in (predictions, on)]
  if sizes[0] != sizes[1]:
    raise ValueError(
        f"{one.name} must be fitted to the classes that it is applied to, but "
        f"it would be fitted to {sizes[1]} and applied to {sizes[0]}")
  if isinstance(predictions, Predictions):
    pairs = zip(predictions.class_names, on.class_names)
    differing = next((pair for pair in pairs if pair[0] != pair[1]), None)
    if differing:
      raise ValueError(
          f"{one.name} must be fitted to the classes that it is applied to, "
          f"in the same order, but {differing[1]!r} stands where "
          f"{differing[0]!r} does")


def _check_other_images(predictions, on):
  seen = set(on.ids)
  both = [image_id for image_id in predictions.ids if image_id in seen]
  if both:
    raise ValueError(
        f"{len(both)} images are among those to fit to and among those to be "
        f"recalibrated, the first one {both[0]!r}: a calibrator must not be "
        "judged by what it was fitted to. Give other images, or a share of "
        "these; if they only have the same names, rename those of one set")


def _stages(settings, name):
  """What the settings say of the stages, where they do."""
  if stages.SETTING not in settings:
    return {}
  return stages.setting(
      stages.of(settings[stages.SETTING])._replace(recalibrator=name))


def _about(fit: base.Fit, on: Predictions | None) -> dict[str, Any]:
  """What the settings keep of a fit."""
  arrays = {name: np.asarray(value) for name, value in fit.parameters.items()}
  return {
      "parameters": {
          name: value.tolist() if value.size <= _LONG else
          {"shape": list(value.shape)} for name, value in arrays.items()},
      "num_images": 0 if on is None else len(on.ids),
      "fitted_on": None if on is None else on.settings.get("data"),
      "notes": list(fit.notes)}
