"""The posterior that a config names: where it lies, and what is used of it."""

import pathlib

from jaxcal import config as config_lib
from jaxcal.clip import checkpoint
from jaxcal.posterior import head


def load(
    config: config_lib.PosteriorConfig, model: checkpoint.Model
) -> head.Chosen | None:
  """The posterior of config.posterior; None where there is no folder.

  Raises:
    FileNotFoundError: Nothing lies there.
    ValueError: It is damaged, or of another model.
  """
  if config.folder is None:
    return None
  return head.load(config.folder, model, pseudo_count=config.pseudo_count)


def to_fill(config: config_lib.PosteriorConfig) -> pathlib.Path:
  """The folder that receives a posterior.

  Raises:
    ValueError: None is named.
  """
  if config.folder is None:
    raise ValueError("--config.posterior.folder is None: name the folder to "
                     "fill, with --config.posterior.folder=...")
  return pathlib.Path(config.folder)
