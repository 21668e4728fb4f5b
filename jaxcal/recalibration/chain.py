"""Calibrators one after the other, all fitted to the same images.

  both = chain.Chain((temperature.Temperature(), dac.Dac()))
  jaxcal.recalibrate(predictions, on, both)
"""

import collections
from collections.abc import Iterator, Mapping, Sequence
import dataclasses
from typing import Any

from jaxcal.recalibration import base
from jaxcal.typing import AnyArray
from jaxcal.typing import Float


@dataclasses.dataclass(frozen=True)
class Chain:
  """The first one, then the second on what the first one gave, and so on.

  Each is fitted to the same images, to what those before it made of them. It
  equals recalibrating these, too, and fitting the next one to the result.

  Attributes:
    calibrators: Calibrators in the order in which they are applied, at least
      one.
  """

  calibrators: tuple[base.Calibrator, ...]

  def recalibrator(self) -> base.Recalibrator:
    """All of them as one; names are joined by "+".

    Its parameters are those of each one, as in "temperature.temperature"; one
    that comes a second time is "temperature-2".
    """
    ones = [one.recalibrator() for one in self.calibrators]
    fitted = [one for one in ones if one.fit is not None]
    return base.Recalibrator(
        "+".join(one.name for one in ones),
        apply=lambda parameters, evidence: _apply(ones, parameters, evidence),
        fit=(lambda evidence: _fit(ones, evidence)) if fitted else None,
        needs=tuple(dict.fromkeys(name for one in ones for name in one.needs)),
        needs_labels=any(one.needs_labels for one in fitted),
        keeps_prediction=all(one.keeps_prediction for one in ones),
        same_classes=any(one.same_classes for one in fitted))


def _fit(
    ones: Sequence[base.Recalibrator], evidence: base.Evidence) -> base.Fit:
  """The fits of all, each to what those before it gave."""
  parameters: dict[str, Any] = {}
  notes: list[str] = []
  for key, one in _keyed(ones):
    fit = base.Fit({}) if one.fit is None else one.fit(evidence)
    parameters |= {f"{key}.{name}": value
                   for name, value in fit.parameters.items()}
    notes += [f"{one.name}: {note}" for note in fit.notes]
    evidence = _after(one, fit.parameters, evidence)
  return base.Fit(parameters, tuple(notes))


def _apply(
    ones: Sequence[base.Recalibrator], parameters: Mapping[str, Any],
    evidence: base.Evidence
) -> Float[AnyArray, "n k"]:
  """The logits after all of them."""
  for key, one in _keyed(ones):
    own = {name.removeprefix(f"{key}."): value
           for name, value in parameters.items() if name.startswith(f"{key}.")}
    evidence = _after(one, own, evidence)
  return evidence.logits


def _after(one, parameters, evidence) -> base.Evidence:
  """The same with the logits of one calibrator, as if it came alone."""
  logits = one.apply(parameters, evidence)
  base.check_logits(one, evidence.logits, logits)
  if one.keeps_prediction:
    logits = base.told_apart(evidence.logits, logits)
  return evidence._replace(logits=logits)


def _keyed(ones) -> Iterator[tuple[str, base.Recalibrator]]:
  """Each with a name of its own."""
  seen: collections.Counter[str] = collections.Counter()
  for one in ones:
    seen[one.name] += 1
    times = seen[one.name]
    yield one.name if times == 1 else f"{one.name}-{times}", one
