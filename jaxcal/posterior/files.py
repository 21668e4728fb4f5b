"""Kronecker factors on disk, and the posterior that follows from them.

A folder of `fit.fit`, `jaxcal posterior fit` or `import` holds

  factors.npz     A and B of both sides, as published: divided by sqrt(pairs)
  spectra.npz     their eigenvalues, all that fitting a prior precision needs
  manifest.json   of which model and pairs they are, with their identity
  posterior.npz, posterior.json   see `laplace.save`
"""

from collections.abc import Mapping
import json
import math
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from jaxcal.posterior import curvature
from jaxcal.posterior import laplace
from jaxcal.posterior import marginal
from jaxcal.storage import arrays
from jaxcal.storage import atomic
from jaxcal.storage import damage
from jaxcal.storage import identity
from jaxcal.typing import Float

SIDES = ("image", "text")
FORMAT_VERSION = 1
# Of the released programs since their marginal likelihood was corrected.
PSEUDO_COUNT = 4.0
_MANIFEST = "manifest.json"
_AGAIN = "fit or import the posterior again, with --overwrite"
_NEEDED = ("format_version", "model", "model_fingerprint", "weight_norm2")


class Fitted(NamedTuple):
  """What a folder holds of both sides.

  Attributes:
    factors: Factors by side, "image" and "text".
    spectra: Eigenvalues of (A, B) by side, float64, not negative.
    manifest: JSON; has at least `model`, `model_fingerprint` and
      `weight_norm2`, by side the sum of squares of the projection's weights.
  """

  factors: Mapping[str, curvature.Factors]
  spectra: Mapping[
      str, tuple[Float[np.ndarray, "p"], Float[np.ndarray, "d"]]]
  manifest: Mapping[str, Any]


class Evidence(NamedTuple):
  """How much the pairs and the prior count.

  Attributes:
    pseudo_count: How often each pair's curvature counts.
    prior_precision: Prior precision by side.
  """

  pseudo_count: float
  prior_precision: Mapping[str, float]


def fitted(factors: Mapping[str, curvature.Factors],
           manifest: Mapping[str, Any]) -> Fitted:
  """Factors with their spectra.

  Raises:
    ValueError: Sides are missing, or a matrix has no spectrum.
  """
  if set(factors) != set(SIDES):
    raise ValueError(f"factors of the sides {', '.join(SIDES)} expected, got "
                     f"{', '.join(sorted(factors))}")
  spectra = {side: (marginal.spectrum(factors[side].a),
                    marginal.spectrum(factors[side].b)) for side in SIDES}
  return Fitted(factors, spectra, manifest)


def maximise_evidence(
    found: Fitted, pseudo_count: float = PSEUDO_COUNT, *,
    form: str = "corrected") -> Evidence:
  """The prior precision of each side with the largest marginal likelihood.

  Args:
    found: Fitted factors from `fitted` or `read`.
    pseudo_count: How often each pair's curvature counts, > 0.
    form: See `marginal.fit_prior_precision`.
  """
  return Evidence(pseudo_count, {
      side: marginal.fit_prior_precision(
          *found.spectra[side], pseudo_count=pseudo_count, form=form,
          weight_norm2=found.manifest["weight_norm2"][side])
      for side in SIDES})


def scaled(evidence: Evidence, factor: float) -> Evidence:
  """The same with other prior precisions, a multiple for both sides."""
  return evidence._replace(prior_precision={
      side: factor * value
      for side, value in evidence.prior_precision.items()})


def posterior(found: Fitted, evidence: Evidence) -> laplace.Posterior:
  """The Gaussians of both sides."""
  return laplace.Posterior(**{
      side: laplace.kronecker_posterior(
          found.factors[side], pseudo_count=evidence.pseudo_count,
          prior_precision=evidence.prior_precision[side])
      for side in SIDES})


def describe(found: Fitted, evidence: Evidence) -> list[dict[str, Any]]:
  """A row per side: sizes, pairs, spectra and prior precision.

  Args:
    found: Fitted factors from `fitted` or `read`.
    evidence: How much the pairs and the prior count.

  Returns:
    Rows of `side`, `inputs`, `outputs`, `pairs`, `a` and `b` (least, median
    and largest eigenvalue) and `prior_precision`.
  """
  rows = []
  for side in SIDES:
    of_a, of_b = found.spectra[side]
    rows.append({
        "side": side, "inputs": len(of_a), "outputs": len(of_b),
        "pairs": found.factors[side].num_pairs,
        "a": np.quantile(of_a, (0, 0.5, 1)),
        "b": np.quantile(of_b, (0, 0.5, 1)),
        "prior_precision": evidence.prior_precision[side]})
  return rows


def weighed_spectra(
    found: Fitted, evidence: Evidence
) -> tuple[dict[str, list[np.ndarray]], dict[str, float]]:
  """What adds up to the posterior's precision, by side.

  Args:
    found: Fitted factors from `fitted` or `read`.
    evidence: How much the pairs and the prior count.

  Returns:
    Eigenvalues of (A, B) times the root of the pseudo-data count, and roots of
    the prior precisions.
  """
  root = evidence.pseudo_count ** 0.5
  return ({side: [root * values for values in found.spectra[side]]
           for side in SIDES},
          {side: evidence.prior_precision[side] ** 0.5 for side in SIDES})


def digest(found: Fitted) -> str:
  """A short digest of the factors of both sides."""
  return identity.of_lines(
      identity.of_array(np.asarray(part)) for side in SIDES
      for part in found.factors[side])


def has_factors(folder: str | os.PathLike) -> bool:
  """Whether `write` has written all but, perhaps, the posterior."""
  return pathlib.Path(folder, _MANIFEST).exists()


def write(folder: str | os.PathLike, found: Fitted, evidence: Evidence) -> None:
  """Writes all files of a folder; the posterior, last, makes it complete."""
  folder = pathlib.Path(folder)
  atomic.make_folder(folder)
  matrices = {f"{side}/{name}": np.asarray(getattr(found.factors[side], name))
              for side in SIDES for name in ("a", "b")}
  counts = {f"{side}/num_pairs": np.asarray(found.factors[side].num_pairs)
            for side in SIDES}
  spectra = {f"{side}/{name}": values for side in SIDES
             for name, values in zip("ab", found.spectra[side])}
  laplace.write_arrays(folder / "factors.npz", {**matrices, **counts})
  laplace.write_arrays(folder / "spectra.npz", spectra)
  written = digest(found)
  manifest = {"format_version": FORMAT_VERSION, **found.manifest,
              "factors": written}
  atomic.write_whole(folder / _MANIFEST,
                     (json.dumps(manifest, indent=2) + "\n").encode())
  about = {"model_fingerprint": found.manifest["model_fingerprint"],
           "factors": written,
           "pseudo_count": evidence.pseudo_count,
           "prior_precision": dict(evidence.prior_precision)}
  laplace.save(folder / "posterior", posterior(found, evidence), about)


def read(folder: str | os.PathLike) -> Fitted:
  """What `write` wrote, without the posterior.

  Raises:
    FileNotFoundError: No such folder, or a file of it is missing.
    ValueError: A file is damaged, or of another format.
  """
  folder = pathlib.Path(folder)
  for name in (_MANIFEST, "factors.npz", "spectra.npz"):
    if not (folder / name).exists():
      raise FileNotFoundError(
          f"no {folder / name}; `jaxcal posterior fit` writes it, and `jaxcal "
          "posterior import` from released factors")
  path = folder / _MANIFEST
  manifest = damage.read_object(path, _AGAIN)
  missing = [key for key in _NEEDED if key not in manifest]
  try:
    matrices = arrays.unpack(folder / "factors.npz")
    factors = {
        side: curvature.Factors(
            matrices[f"{side}/a"], matrices[f"{side}/b"],
            int(matrices[f"{side}/num_pairs"])) for side in SIDES}
    stored = arrays.unpack(folder / "spectra.npz")
    spectra = {side: (stored[f"{side}/a"], stored[f"{side}/b"])
               for side in SIDES}
    for side in SIDES:
      for matrix in (factors[side].a, factors[side].b, *spectra[side]):
        _check_numbers(np.asarray(matrix))
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(f"{folder} is damaged ({error}); {_AGAIN}") from error
  if missing or manifest["format_version"] != FORMAT_VERSION or (
      not _are_norms(manifest["weight_norm2"])):
    raise ValueError(
        f"{path} is not of format version {FORMAT_VERSION}, or lacks "
        f"{', '.join(missing) or 'numbers in weight_norm2'}; {_AGAIN}")
  for side in SIDES:
    for name, values in zip("ab", spectra[side]):
      matrix = getattr(factors[side], name)
      if matrix.shape != 2 * values.shape:
        raise ValueError(
            f"{folder}: the {side} factor {name} is {list(matrix.shape)}, but "
            f"its spectrum has {len(values)} eigenvalues; {_AGAIN}")
  found = Fitted(factors, spectra, manifest)
  if manifest.get("factors") not in (None, digest(found)):
    raise ValueError(f"{folder / 'factors.npz'} holds other factors than those "
                     f"that {_MANIFEST} tells of; {_AGAIN}")
  return found


def _check_numbers(values):
  """Refuses what is no matrix of a Kronecker factor and no spectrum of one."""
  if values.dtype.kind != "f" or not np.isfinite(values).all():
    raise ValueError(f"{values.dtype} of shape {values.shape}, expected real "
                     "numbers, all of them finite")
  if values.ndim == 1 and (values < 0).any():
    raise ValueError("an eigenvalue is below 0")


def _are_norms(found):
  """Whether there is a positive number for both sides."""
  return isinstance(found, dict) and all(
      isinstance(found.get(side), (int, float)) and 0 < found[side] < math.inf
      for side in SIDES)
