"""Eight steps under shift: where tuning on entropy makes over-confident.

A stress test, not the published setting: the variant of the shipped model, one
shifted set, eight small steps in place of one. The images are none of those
that this was chosen on.
"""

from jaxcal import config


def get_config() -> config.ExperimentConfig:
  experiment = config.ExperimentConfig()
  experiment.model.name = "testbed-stress"
  experiment.data.name = ("shades-sketch",)
  experiment.data.skip = 500
  experiment.data.limit = 1000
  experiment.method.name = (
      "zero_shot", "tpt", "c_tpt", "o_tpt", "a_tpt", "soc", "soc_quantile")
  experiment.method.num_steps = 8
  # With fewer, no p-value of so many comparisons could be below 5 %.
  experiment.metrics.num_resamples = 10_000
  return experiment
