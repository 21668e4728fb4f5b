"""Reads the Kronecker factors that were published with BayesVLM.

Baumann et al., Post-hoc Probabilistic Vision-Language Models, ICLR 2026. A
folder of theirs holds four matrices, each a torch file of its own, and a JSON
of prior precisions. Torch reads the matrices and executes nothing in them.
"""

from collections.abc import Mapping
import math
import os
import pathlib
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxcal.posterior import curvature
from jaxcal.posterior import files
from jaxcal.posterior import marginal
from jaxcal.storage import damage

PUBLISHED_PAIRS = 327_680  # of LAION-400M, behind each published factor

_MATRICES = tuple(f"{name}_analytic.pt"
                  for name in ("A_img", "B_img", "A_txt", "B_txt"))
_PRIOR = "prior_precision_analytic.json"
_PRIOR_KEYS = ("lambda_img", "n_img", "lambda_txt", "n_txt")


class Released(NamedTuple):
  """What a published folder says.

  Attributes:
    image: Factors of the image projection, symmetrised.
    text: Factors of the text projection.
    prior: Numbers of the prior: `lambda_img`, `lambda_txt` (prior precisions)
      and `n_img`, `n_txt` (the pseudo-counts that they were fitted for). They
      maximise a marginal likelihood with swapped dimensions; rather fit them
      anew.
    asymmetry: Largest difference, by file, of two entries that mirror each
      other, over the largest entry. Averaging them has removed it.
  """

  image: curvature.Factors
  text: curvature.Factors
  prior: dict[str, float]
  asymmetry: dict[str, float]


def read_folder(
    folder: str | os.PathLike, *, num_pairs: int = PUBLISHED_PAIRS
) -> Released:
  """Reads `A_img_analytic.pt` and its like from one folder.

  Args:
    folder: Folder with A and B of both sides and
      `prior_precision_analytic.json`.
    num_pairs: How many image-caption pairs the factors are from; the files do
      not say it.

  Raises:
    FileNotFoundError: A file is missing.
    ImportError: Torch is not installed.
    ValueError: A file holds anything but one square and finite matrix of
      floats, the two B differ in width, or the JSON lacks a positive number.
  """
  folder = pathlib.Path(folder)
  for name in (*_MATRICES, _PRIOR):
    if not (folder / name).is_file():
      raise FileNotFoundError(
          f"no {folder / name}; a published folder has "
          f"{', '.join(_MATRICES)} and {_PRIOR}")
  prior = _read_prior(folder / _PRIOR)
  raw = {name: _read_matrix(folder / name) for name in _MATRICES}
  a_image, b_image, a_text, b_text = (
      jnp.asarray((matrix + matrix.T) / 2) for matrix in raw.values())
  if b_image.shape != b_text.shape:
    raise ValueError(
        f"{folder}: images are embedded in {len(b_image)} dimensions "
        f"({_MATRICES[1]}), but texts in {len(b_text)} ({_MATRICES[3]}); are "
        "the files of two models?")
  return Released(
      curvature.Factors(a_image, b_image, num_pairs),
      curvature.Factors(a_text, b_text, num_pairs), prior,
      {name: _asymmetry(matrix) for name, matrix in raw.items()})


def fitted(
    found: Released,
    *,
    name: str,
    weight_norm2: Mapping[str, float],
    model: str | None = None,
    model_fingerprint: str | None = None,
) -> files.Fitted:
  """Released factors with their spectra, as `files` writes them.

  Args:
    found: Factors from `read_folder`.
    name: Name of the published folder, for the record.
    weight_norm2: Sum of squares of the projection's weights, by side.
    model: Name of the model; None where it is not at hand.
    model_fingerprint: Fingerprint of the model, likewise.
  """
  return files.fitted({"image": found.image, "text": found.text}, {
      "model": model, "model_fingerprint": model_fingerprint,
      "weight_norm2": dict(weight_norm2),
      "released": {"folder": name, "prior": found.prior,
                   "asymmetry": found.asymmetry}})


def compare_priors(
    found: Released, fitted: files.Fitted, evidence: files.Evidence
) -> list[dict[str, Any]]:
  """Where the released prior precisions come from, and where they go.

  Args:
    found: Factors from `read_folder`.
    fitted: Factors with spectra of the same, from `fitted`.
    evidence: What was chosen anew.

  Returns:
    A row per side: `released` and `released_count`, the optima of both forms
    of the marginal likelihood at that count (`superseded`, `corrected`), and
    `chosen` at `pseudo_count`.
  """
  rows = []
  for side, short in (("image", "img"), ("text", "txt")):
    count = found.prior[f"n_{short}"]
    refit = {form: marginal.fit_prior_precision(
        *fitted.spectra[side], pseudo_count=count, form=form,
        weight_norm2=fitted.manifest["weight_norm2"][side])
             for form in ("superseded", "corrected")}
    rows.append({
        "side": side, "released": found.prior[f"lambda_{short}"],
        "released_count": count, **refit,
        "chosen": evidence.prior_precision[side],
        "pseudo_count": evidence.pseudo_count})
  return rows


def _read_matrix(path):
  """One square matrix, float32 numpy, as the file has it."""
  try:
    import torch
  except ImportError as error:
    raise ImportError(f"{path} is a torch file; to read it, install torch: "
                      "pip install 'jaxcal[oracle]'") from error
  try:
    tensor = torch.load(path, map_location="cpu", weights_only=True)
  except Exception as error:  # Torch raises what its parts happen to raise.
    raise ValueError(f"{path} is damaged, or more than a plain tensor; nothing "
                     "in it was executed") from error
  if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
    found = getattr(tensor, "dtype", type(tensor).__name__)
    raise ValueError(f"{path} must hold one tensor of floats, but holds "
                     f"{found}")
  if tensor.ndim != 2 or tensor.shape[0] != tensor.shape[1]:
    raise ValueError(f"{path} must hold a square matrix, but its shape is "
                     f"{tuple(tensor.shape)}")
  matrix = tensor.detach().float().numpy()
  if not np.isfinite(matrix).all():
    raise ValueError(f"{path} has entries that are not finite")
  return matrix


def _read_prior(path):
  """The four numbers of a published JSON."""
  found = damage.read_json(path)
  for key in _PRIOR_KEYS:
    value = found.get(key) if isinstance(found, dict) else None
    if not isinstance(value, (int, float)) or not 0 < value < math.inf:
      raise ValueError(f"{path} must have a positive number {key!r}, but has "
                       f"{value!r}")
  return {key: float(found[key]) for key in _PRIOR_KEYS}


def _asymmetry(matrix):
  largest = np.abs(matrix).max()
  return float(np.abs(matrix - matrix.T).max() / largest) if largest else 0.0
