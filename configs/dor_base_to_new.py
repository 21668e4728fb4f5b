"""Few-shot tuning on half of the classes, judged on both halves."""

from jaxcal import config


def get_config() -> config.ExperimentConfig:
  experiment = config.ExperimentConfig()
  experiment.data.name = ("shapes", "compositions", "shades")
  experiment.data.limit = 1000
  experiment.tune.name = (
      "coop", "kgcoop", "coop+dor", "kgcoop+dor", "maple", "maple+dor")
  return experiment
