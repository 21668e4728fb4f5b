"""The folder that `jaxcal posterior fit` and `import` fill, and its report."""

import pathlib

from jaxcal.cli import output_files
from jaxcal.cli import shared_flags
from jaxcal.posterior import files
from jaxcal.posterior import fit
from jaxcal.report import figures
from jaxcal.report import tables
from jaxcal.storage import atomic


def folder_of(config) -> pathlib.Path:
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


def report(folder, found: files.Fitted, evidence: files.Evidence) -> None:
  """The spectra as a figure and the posterior as a table."""
  figure = figures.spectra(*files.weighed_spectra(found, evidence))
  atomic.write_whole(
      folder / "spectra.svg", figures.svg(figure).encode())
  left_out = {**found.manifest.get("left_out", {}),
              "unusable image": found.manifest.get("num_unusable", 0)}
  note = ", ".join(f"{count} {why}" for why, count in left_out.items() if count)
  print(tables.markdown(files.describe(found, evidence), tables.POSTERIOR))
  print(f"\npseudo-data count {evidence.pseudo_count:g}; left out: "
        f"{note or 'nothing'}\n\nWritten to {folder}: factors.npz, "
        "spectra.npz, spectra.svg, manifest.json, posterior.npz, "
        "posterior.json")
