"""Few-shot tuning on half of the classes, judged on both halves.

`jaxcal tune` trains and predicts; `jaxcal evaluate` predicts with what it
saved, see `config.method.tuned`, beside the zero-shot model.
"""

from jaxcal import config


def get_config() -> config.ExperimentConfig:
  experiment = config.ExperimentConfig()
  experiment.data.name = ("shapes", "compositions", "shades")
  experiment.data.limit = 1000
  experiment.tune.name = ("coop", "kgcoop", "maple")
  experiment.tune.dor = ("without", "with")
  experiment.method.name = ("zero_shot",)
  # One view, the clean one: nothing is tuned at test time.
  experiment.views.number = 1
  experiment.method.selection_fraction = 1.0
  return experiment
