"""A posterior's folder becomes what predictions need, checked for the model."""

from collections.abc import Mapping
import json
import os
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.adapt.prompt import bayesian
from jaxcal.clip import checkpoint
from jaxcal.posterior import files
from jaxcal.posterior import inputs
from jaxcal.posterior import laplace
from jaxcal.storage import identity


class Chosen(NamedTuple):
  """A posterior, and what to say of it beside the numbers that it gives."""

  posterior: laplace.Posterior
  about: dict[str, Any]


def load(
    folder: str | os.PathLike,
    model: checkpoint.Model,
    *,
    pseudo_count: float | None = None,
) -> Chosen:
  """The posterior that a folder holds.

  Args:
    folder: Folder that `fit.fit` or `jaxcal posterior` has filled.
    model: The model that it was fitted to.
    pseudo_count: How often each pair's curvature counts, with the prior
      precisions of the largest evidence; as the folder has it if None.

  Raises:
    FileNotFoundError: Nothing lies there.
    ValueError: It is damaged, or of another model.
  """
  folder = pathlib.Path(folder)
  if not folder.is_dir():
    raise FileNotFoundError(
        f"no posterior in {folder}: `jaxcal posterior fit --config=... "
        f"--config.posterior.folder={folder}` fits one")
  if not (folder / "posterior.json").exists():
    raise FileNotFoundError(
        f"no complete posterior in {folder}; a `jaxcal posterior fit` that was "
        "interrupted goes on when it is started again")
  try:
    posterior, about = laplace.load(folder / "posterior")
  except (ValueError, KeyError) as error:
    raise ValueError(f"the posterior in {folder} is damaged ({error}); start "
                     "the command that wrote it again") from error
  check(posterior, about, model, folder)
  if pseudo_count is not None:
    found = factors(folder, about)
    evidence = files.maximise_evidence(found, pseudo_count)
    posterior = files.posterior(found, evidence)
    check(posterior, about, model, folder)
    about |= {"pseudo_count": evidence.pseudo_count,
              "prior_precision": evidence.prior_precision}
  return Chosen(posterior, json.loads(json.dumps(about)))


def factors(
    folder: str | os.PathLike, about: Mapping[str, Any]) -> files.Fitted:
  """The factors that a posterior was made of.

  Args:
    folder: Folder of the posterior.
    about: What is known of the posterior.

  Raises:
    FileNotFoundError: They are not there.
    ValueError: They are damaged, or of another posterior.
  """
  found = files.read(folder)
  if about.get("factors") != found.manifest.get("factors"):
    raise ValueError(
        f"the posterior in {folder} was not made of the factors in "
        f"{folder}; fit or import it again, with --overwrite")
  return found


def check(
    posterior: laplace.Posterior,
    about: Mapping[str, Any],
    model: checkpoint.Model,
    folder: str | os.PathLike,
) -> None:
  """Refuses a posterior of another model than this.

  Args:
    posterior: The posterior.
    about: What is known of it; a fingerprint of its model, if any.
    model: The model.
    folder: Where the posterior lies, for the message.

  Raises:
    ValueError: Sizes or fingerprints differ.
  """
  shapes: dict[str, Any] = {
      side: one.kernel.shape for side, one in inputs.projections(model).items()}
  try:
    laplace.check(posterior, **shapes)
  except ValueError as error:
    raise ValueError(f"{folder} does not belong to {model.name}: "
                     f"{error}") from error
  if about.get("model_fingerprint") not in (None, model.fingerprint):
    raise ValueError(
        f"{folder} was fitted to other weights than those of {model.name}; fit "
        "a posterior to these, or name the model that it belongs to")


def head(
    chosen: Chosen,
    model: checkpoint.Model,
    num_classes: int,
    *,
    num_samples: int = 100,
    seed: int = 0,
) -> bayesian.Head:
  """What `run.iterate` takes.

  Args:
    chosen: Posterior from `load`.
    model: The model that it was fitted to.
    num_classes: Classes that are told apart.
    num_samples: Samples of the logits behind the parts of the uncertainty.
    seed: Seed of these samples.
  """
  maps = inputs.projections(model)
  noise = jax.random.normal(
      jax.random.key(seed), (num_samples, num_classes), jnp.float32)
  return bayesian.Head(chosen.posterior, maps["image"], maps["text"],
                       jnp.exp(model.params["logit_scale"]), noise)


def identity_of_head(
    chosen: Chosen, *, num_samples: int = 100, seed: int = 0
) -> dict[str, Any]:
  """The identity of `head`: the posterior, and what is drawn from it."""
  return {**identity_of(chosen), "posterior.num_samples": num_samples,
          "posterior.seed": seed}


def identity_of(chosen: Chosen) -> dict[str, Any]:
  """The identity of a posterior: its covariances, and how the pairs count."""
  layers = {f"{side}.{name}": matrix for side in laplace.Posterior._fields
            for name, matrix in getattr(
                chosen.posterior, side)._asdict().items()}
  return {"posterior": identity.of_lines(
      identity.of_array(np.asarray(layers[name])) for name in sorted(layers)),
          "posterior.pseudo_count": chosen.about.get("pseudo_count")}
