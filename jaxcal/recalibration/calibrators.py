"""The calibrators by the names that commands and files give them."""

from jaxcal import spelling
from jaxcal.recalibration import base
from jaxcal.recalibration import temperature

RECALIBRATORS = {"temperature": temperature.Temperature}


def calibrator(name: str) -> base.Calibrator:
  """The calibrator called `name`, with its own constants.

  Raises:
    ValueError: An unknown name; lists the choices.
  """
  if name not in RECALIBRATORS:
    raise ValueError(f"unknown recalibrator {name!r}; "
                     f"{spelling.choices(name, RECALIBRATORS)}")
  return RECALIBRATORS[name]()
