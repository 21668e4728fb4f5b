"""All twenty testbed sets at full size: many hours on two cores.

Interrupt it as you like: the same command goes on where it stopped.
"""

from jaxcal import config

_SETS = ("shapes", "compositions", "shades", "digits")
_SHIFTS = ("", "-noise", "-blur", "-contrast", "-sketch")


def get_config() -> config.ExperimentConfig:
  experiment = config.ExperimentConfig()
  experiment.data.name = tuple(
      name + shift for name in _SETS for shift in _SHIFTS)
  return experiment
