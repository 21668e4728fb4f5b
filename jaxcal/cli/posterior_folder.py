"""The folder that `jaxcal posterior fit` and `import` fill, and its report."""

import json
import pathlib
import shutil

import numpy as np

from jaxcal.cli import shared_flags
from jaxcal.posterior import files
from jaxcal.report import figures
from jaxcal.report import tables
from jaxcal.storage import atomic

# What lies in a folder until it is complete, and what it may hold.
WORK = "work"
_WRITTEN = ("factors.npz", "spectra.npz", "spectra.svg", "manifest.json",
            "posterior.npz", "posterior.json", "priors.md", WORK)
_WRITTEN_WORK = ("about.json", "features", "sums.npz")


def folder_of(config) -> pathlib.Path:
  """Where the posterior goes.

  Raises:
    ValueError: no folder is named, or what is to be removed there is more than
      a posterior.
  """
  if config.posterior.folder is None:
    raise ValueError("config.posterior.folder is None: name the folder to "
                     "fill, with --config.posterior.folder=...")
  if shared_flags.OUTPUT.value is not None:
    raise ValueError("--output is not for a posterior: name the folder to fill "
                     "with --config.posterior.folder=...")
  folder = pathlib.Path(config.posterior.folder)
  foreign = _others(folder / WORK, _WRITTEN_WORK)
  if shared_flags.OVERWRITE.value:
    foreign += _others(folder, _WRITTEN)
  if foreign:
    raise ValueError(
        f"{folder} holds more than a posterior, which would be removed: "
        f"{', '.join(foreign)}; name another --config.posterior.folder")
  return folder


def clear(folder: pathlib.Path) -> None:
  """With --overwrite, removes what `folder_of` has looked at."""
  if shared_flags.OVERWRITE.value and folder.exists():
    shutil.rmtree(folder)


def _others(folder, written):
  """Names of what lies in a folder and is not this command's."""
  if not folder.exists():
    return []
  return sorted(path.name for path in folder.iterdir()
                if path.name.removesuffix(".half") not in written)


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
    work.mkdir(parents=True, exist_ok=True)
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
