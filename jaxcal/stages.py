"""What predictions went through, stage by stage.

Stages are fields wherever they are kept: in the settings of predictions and in
the rows of tables. They are joined into one name to be printed and to call a
file, and that name is never taken apart again.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

# In the settings of predictions, the fields of their stages.
SETTING = "stages"
# In rows that are means over orders of the images, the seeds of these.
ORDERS = "order_seeds"
# What the fields of the other side of a paired difference begin with.
_REFERENCE = "reference"
_EXPECTED = {"tuned_seed": "a number", "order_seed": "a number",
             "additions": "names"}


class Stages(NamedTuple):
  """The stages of predictions; None and () where a stage is left out.

  Attributes:
    method: Test-time method, or the base method of few-shot tuning.
    additions: What was added to the base method, of `tuning.methods.ADDITIONS`.
    tuned_seed: Seed of few-shot tuning, where there are several side by side.
    posterior: Form of the posterior, of `adapt.prompt.bayesian.FORMS`.
    recalibrator: Name of the calibrator; of several, one after the other,
      joined by "+".
    order_seed: Seed of the order of the images, where a method with a state
      sees them in several.
  """

  method: str
  additions: tuple[str, ...] = ()
  tuned_seed: int | None = None
  posterior: str | None = None
  recalibrator: str | None = None
  order_seed: int | None = None

  @property
  def label(self) -> str:
    """All stages in one name, as in coop+dor-1+temperature; for printing."""
    tuned = "+".join((self.method, *self.additions))
    if self.tuned_seed is not None:
      tuned += f"-{self.tuned_seed}"
    if self.order_seed is not None:
      tuned += f"-order{self.order_seed}"
    return "+".join(filter(None, (tuned, self.posterior, self.recalibrator)))


def fields(stages: Stages) -> dict[str, Any]:
  """The stages that there are, by name, as rows and JSON have them."""
  found = stages._asdict() | {"additions": list(stages.additions)}
  return {name: value for name, value in found.items()
          if value is not None and value != []}


def reference_fields(stages: Stages) -> dict[str, Any]:
  """The same of what a row is compared with: reference, reference_posterior."""
  return {_REFERENCE if name == "method" else f"{_REFERENCE}_{name}": value
          for name, value in fields(stages).items()}


def of(row: Mapping[str, Any]) -> Stages:
  """The stages that a row, or a mapping from `fields`, tells.

  Raises:
    ValueError: It names no method, or a stage by something else than it should.
  """
  found = {name: row[name] for name in Stages._fields
           if row.get(name) is not None}
  for name, value in {"method": None, **found}.items():
    if not _fits(name, value):
      raise ValueError(f"the stage {name!r} is {value!r}, expected "
                       f"{_EXPECTED.get(name, 'a name')}")
  return Stages(**found | {"additions": tuple(found.get("additions", ()))})


def _fits(name, value):
  if name == "additions":
    return isinstance(value, (list, tuple)) and all(
        isinstance(one, str) for one in value)
  return isinstance(value, int if name.endswith("_seed") else str)


def reference_of(row: Mapping[str, Any]) -> Stages:
  """The stages of what a row of differences is compared with."""
  return of({name: row.get(
      _REFERENCE if name == "method" else f"{_REFERENCE}_{name}")
             for name in Stages._fields})


def labels(row: Mapping[str, Any]) -> list[str]:
  """Labels of the predictions that a row is of: those of each order."""
  return _labels(of(row), row.get(ORDERS))


def reference_labels(row: Mapping[str, Any]) -> list[str]:
  """The same of what a row of differences is compared with."""
  return _labels(reference_of(row), row.get(f"{_REFERENCE}_{ORDERS}"))


def pairs(row: Mapping[str, Any]) -> dict[str, str]:
  """Labels of what each of the predictions is compared with, by theirs.

  Args:
    row: Row of differences.
  """
  ours, theirs = labels(row), reference_labels(row)
  return dict(zip(ours, theirs if len(theirs) > 1 else theirs * len(ours)))


def _labels(one, orders):
  if orders is None:
    return [one.label]
  if not isinstance(orders, list) or not all(
      isinstance(seed, int) for seed in orders):
    raise ValueError(f"{ORDERS} are {orders!r}, expected numbers")
  return [one._replace(order_seed=seed).label for seed in orders]


def of_settings(settings: Mapping[str, Any], name: str) -> Stages:
  """The stages of saved predictions.

  Args:
    settings: Settings of the predictions.
    name: Name of their file, which is all that earlier versions tell.
  """
  found = settings.get(SETTING)
  return of(found if isinstance(found, Mapping) else {"method": name})


def named(settings: Mapping[str, Any], name: str) -> Stages:
  """The stages of predictions that go by a name, which their label then is.

  Args:
    settings: Settings of the predictions.
    name: Name that they go by; where it is not that of their stages, as of a
      copy under a name of one's own, it is all that is known of them.
  """
  found = of_settings(settings, name)
  return found if found.label == name else Stages(name)


def setting(stages: Stages) -> dict[str, Any]:
  """What settings of predictions say of their stages: fields and the label."""
  return {"method": stages.label, SETTING: fields(stages)}
