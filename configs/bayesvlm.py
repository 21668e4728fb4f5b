"""BayesVLM on the testbed: is its uncertainty worth more than a softmax's?

Needs a posterior, which `jaxcal posterior fit --config=bayesvlm` fits in a
minute or two to the testbed's own image-caption pairs.
"""

from jaxcal import config


def get_config() -> config.ExperimentConfig:
  experiment = config.ExperimentConfig()
  experiment.data.name = ("shapes", "compositions", "shades")
  experiment.data.limit = 1000
  experiment.data.out_of_distribution = "digits"
  experiment.views.number = 1
  experiment.method.name = ("zero_shot",)
  experiment.method.selection_fraction = 1.0
  experiment.posterior.folder = "runs/posterior"
  experiment.temperature.split = "validation"
  experiment.temperature.limit = 1000
  return experiment
