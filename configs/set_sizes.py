"""Does a lower calibration error make smaller prediction sets?

All methods, each with a temperature fitted to validation images: `jaxcal
evaluate --config=set_sizes`, then `jaxcal conformal` on its folder.
"""

from jaxcal import config


def get_config() -> config.ExperimentConfig:
  experiment = config.ExperimentConfig()
  experiment.data.limit = 500
  experiment.method.name = (
      "zero_shot", "tpt", "c_tpt", "o_tpt", "a_tpt", "soc", "mta", "zero",
      "tda")
  experiment.temperature.split = "validation"
  experiment.temperature.limit = 500
  return experiment
