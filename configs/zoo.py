"""Every test-time method, along three orders: who gains, and who pays for it?

The four testbed sets and sketches of them; a temperature for each method,
fitted to validation images, says what of its miscalibration is scale alone.
Interrupt it as you like: the same command goes on where it stopped.
"""

from jaxcal import config

_SETS = ("shapes", "compositions", "shades", "digits")
_SHIFTS = ("", "-sketch")


def get_config() -> config.ExperimentConfig:
  experiment = config.ExperimentConfig()
  experiment.data.name = tuple(
      name + shift for shift in _SHIFTS for name in _SETS)
  experiment.data.limit = 500
  experiment.method.name = (
      "zero_shot", "tpt", "c_tpt", "o_tpt", "a_tpt", "soc", "r_tpt", "rlcf",
      "ttl", "mta", "zero", "tps", "tda", "boostadapter", "dmn", "dmn_weak",
      "dpe", "onzeta", "ecalp", "dynaprompt")
  experiment.stream.orders = 3
  experiment.temperature.split = "validation"
  experiment.temperature.limit = 500
  experiment.reference = "zero_shot"
  # With fewer, no p-value of so many comparisons could be below 5 %.
  experiment.metrics.num_resamples = 10_000
  return experiment
