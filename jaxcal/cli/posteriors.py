"""A posterior's folder becomes what answers need, checked against the model."""

import json
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.adapt.prompt import bayesian
from jaxcal.clip import checkpoint
from jaxcal.clip import towers
from jaxcal.posterior import files
from jaxcal.posterior import laplace
from jaxcal.typing import at_least_float32


class Chosen(NamedTuple):
  """A posterior, and what to say of it beside the numbers that it gives."""

  posterior: laplace.Posterior
  about: dict[str, Any]


def projections(model: checkpoint.Model) -> dict[str, towers.Projection]:
  """The last linear maps of both towers, by side, in float32 at least."""
  return jax.tree.map(at_least_float32, {
      "image": towers.image_projection(model.config, model.params),
      "text": towers.text_projection(model.config, model.params)})


def weight_norm2(projection: towers.Projection) -> float:
  """Sum of squares of a map's weights, the bias among them."""
  return float(sum(np.square(np.asarray(leaf, np.float64)).sum()
                   for leaf in jax.tree.leaves(projection)))


def load(config, model: checkpoint.Model) -> Chosen | None:
  """The posterior of config.posterior; None where there is no folder.

  Raises:
    FileNotFoundError: nothing lies there.
    ValueError: it is damaged, or of another model.
  """
  if config.folder is None:
    return None
  folder = pathlib.Path(config.folder)
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
  if config.pseudo_count is not None:
    found = files.read(folder)
    evidence = files.maximise_evidence(found, config.pseudo_count)
    posterior = files.posterior(found, evidence)
    check(posterior, about, model, folder)
    about |= {"pseudo_count": evidence.pseudo_count,
              "prior_precision": evidence.prior_precision}
  return Chosen(posterior, json.loads(json.dumps(about)))


def check(posterior, about, model, folder) -> None:
  """Refuses a posterior of another model than this."""
  shapes = {side: one.kernel.shape for side, one in projections(model).items()}
  try:
    laplace.check(posterior, **shapes)
  except ValueError as error:
    raise ValueError(f"{folder} does not belong to {model.name}: "
                     f"{error}") from error
  if about.get("model_fingerprint") not in (None, model.fingerprint):
    raise ValueError(
        f"{folder} was fitted to other weights than those of {model.name}; fit "
        "a posterior to these, or name the model that it belongs to")


def head(chosen: Chosen, config, model: checkpoint.Model,
         num_classes: int) -> bayesian.Head:
  """What `run.iterate` takes."""
  maps = projections(model)
  noise = jax.random.normal(
      jax.random.key(config.seed), (config.num_samples, num_classes))
  return bayesian.Head(chosen.posterior, maps["image"], maps["text"],
                       jnp.exp(model.params["logit_scale"]), noise)
