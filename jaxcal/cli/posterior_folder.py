"""The folder that `jaxcal posterior fit` and `import` fill, and its report."""

import json
import pathlib
import re

import numpy as np

from jaxcal.cli import output_files
from jaxcal.cli import shared_flags
from jaxcal.posterior import files
from jaxcal.report import figures
from jaxcal.report import tables
from jaxcal.storage import atomic

# What lies in a folder until it is complete, and what it holds then.
WORK = "work"
_WRITTEN = re.compile(
    r"factors\.npz|spectra\.(npz|svg)|manifest\.json|posterior\.(npz|json)"
    r"|priors\.md")


def folder_of(config) -> pathlib.Path:
  """Where the posterior goes.

  Raises:
    ValueError: no folder is named.
  """
  if config.posterior.folder is None:
    raise ValueError("config.posterior.folder is None: name the folder to "
                     "fill, with --config.posterior.folder=...")
  if shared_flags.OUTPUT.value is not None:
    raise ValueError("--output is not for a posterior: name the folder to fill "
                     "with --config.posterior.folder=...")
  return pathlib.Path(config.posterior.folder)


def take(folder: pathlib.Path) -> None:
  """Makes the folder and keeps other runs out; with --overwrite, clears it.

  Raises:
    ValueError: another run holds it.
  """
  output_files.take(folder)
  if shared_flags.OVERWRITE.value:
    output_files.clear(folder, _WRITTEN, (WORK,))


def end(folder: pathlib.Path) -> None:
  """Removes the unfinished work of a posterior that is complete."""
  output_files.clear_work(folder / WORK)


def begin(folder: pathlib.Path, about) -> pathlib.Path:
  """Where unfinished work lies; goes on only with the same model and pairs.

  Raises:
    ValueError: the folder holds a posterior of something else, or a damaged
      one.
  """
  work = folder / WORK
  path = folder / "manifest.json"
  if not path.exists():
    path = work / "about.json"
  if path.exists():
    try:
      before = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
      raise ValueError(f"{path} is damaged ({error}); --overwrite begins "
                       "anew") from error
    changed = [f"{key} was {before.get(key)!r}, is {about[key]!r}"
               for key in about
               if key != "provenance" and before.get(key) != about[key]]
    if changed:
      raise ValueError(
          f"{folder} holds another posterior:\n  " + "\n  ".join(changed) +
          "\ngive another --config.posterior.folder, or --overwrite to remove "
          "it")
  else:
    atomic.make_folder(work)
    atomic.write_whole(path, json.dumps(about, indent=2).encode())
  return work


def report(folder, found: files.Fitted, evidence: files.Evidence) -> None:
  """The spectra as a figure and the posterior as a table."""
  root = evidence.pseudo_count ** 0.5
  figure = figures.spectra(
      {side: [root * values for values in found.spectra[side]]
       for side in files.SIDES},
      {side: evidence.prior_precision[side] ** 0.5 for side in files.SIDES})
  atomic.write_whole(
      folder / "spectra.svg", figures.svg(figure).encode())
  rows = [_row(side, found, evidence) for side in files.SIDES]
  left_out = {**found.manifest.get("left_out", {}),
              "unusable image": found.manifest.get("num_unusable", 0)}
  note = ", ".join(f"{count} {why}" for why, count in left_out.items() if count)
  print(tables.markdown(rows, tables.POSTERIOR))
  print(f"\npseudo-data count {evidence.pseudo_count:g}; left out: "
        f"{note or 'nothing'}\n\nWritten to {folder}: factors.npz, "
        "spectra.npz, spectra.svg, manifest.json, posterior.npz, "
        "posterior.json")


def _row(side, found, evidence):
  of_a, of_b = found.spectra[side]
  return {"side": side, "inputs": len(of_a), "outputs": len(of_b),
          "pairs": found.factors[side].num_pairs,
          "a": np.quantile(of_a, (0, 0.5, 1)),
          "b": np.quantile(of_b, (0, 0.5, 1)),
          "prior_precision": evidence.prior_precision[side]}
