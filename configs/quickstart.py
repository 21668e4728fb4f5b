"""Five methods on the four testbed sets, 250 images each: a few minutes."""

from jaxcal import config


def get_config() -> config.ExperimentConfig:
  experiment = config.ExperimentConfig()
  experiment.data.limit = 250
  return experiment
