"""The folder that `jaxcal posterior fit` and `import` fill."""

import pathlib

from jaxcal import config as config_lib
from jaxcal.cli import output_files
from jaxcal.cli import shared_flags
from jaxcal.posterior import fit


def folder_of(config: config_lib.ExperimentConfig) -> pathlib.Path:
  """Where the posterior goes.

  Raises:
    ValueError: No folder is named.
  """
  if config.posterior.folder is None:
    raise ValueError("--config.posterior.folder is None: name the folder to "
                     "fill, with --config.posterior.folder=...")
  return pathlib.Path(config.posterior.folder)


def take(folder: pathlib.Path) -> None:
  """Makes the folder and keeps other runs out; with --overwrite, clears it.

  Raises:
    ValueError: Another run holds it.
  """
  output_files.take(folder)
  if shared_flags.OVERWRITE.value:
    output_files.clear(folder, fit.clear)
