"""Image-text pairs become a posterior, in a folder; resumable.

Features before the projections are written batch by batch, the sums behind the
Kronecker factors block by block. What lies in the folder is used again only
where it is of the same pairs, model and precisions.
"""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import functools
import os
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal import memory
from jaxcal import parts
from jaxcal import provenance
from jaxcal import sharding
from jaxcal.adapt.prompt import bayesian
from jaxcal.clip import captions
from jaxcal.clip import checkpoint
from jaxcal.clip import towers
from jaxcal.data import contents
from jaxcal.data import pairs as pairs_lib
from jaxcal.features import pooled
from jaxcal.metrics import scoring
from jaxcal.posterior import curvature
from jaxcal.posterior import files
from jaxcal.posterior import head
from jaxcal.posterior import inputs
from jaxcal.posterior import marginal
from jaxcal.posterior import predictive
from jaxcal.posterior import released
from jaxcal.storage import atomic
from jaxcal.storage import identity
from jaxcal.storage import output_folder
from jaxcal.storage import pytree
from jaxcal.typing import Float
from jaxcal.typing import Pooled

# As published; the number of pairs at most.
CANDIDATES = 32768
# To choose from by validation.
PSEUDO_COUNTS = (1.0, 4.0, 10.0, 40.0, 100.0, 400.0, 1000.0)
# Of the prior precisions with the largest evidence, likewise.
PRIOR_FACTORS = (0.1, 1.0, 10.0, 100.0)
# In the folder: unfinished work, and digests of the images' files.
_WORK = "work"
_MEMORY = "digests.npz"
# All that a fit, an import and their reports write there.
_WRITTEN = (
    r"factors\.npz|spectra\.(npz|svg)|manifest\.json|posterior\.(npz|json)"
    r"|priors\.md|digests\.npz")
_SUMS = "sums.npz"

_MOST_UNUSABLE = 0.5
# Of so many, before a wrong source is noticed.
_FIRST_PAIRS = 1000
_ANOTHER_FOLDER = ("give another folder, or remove what is there (--overwrite "
                   "of `jaxcal posterior fit`)")


class Fit(NamedTuple):
  """A posterior that was fitted, by its parts; see `files.posterior`."""

  found: files.Fitted
  evidence: files.Evidence


class Validated(NamedTuple):
  """What was chosen by labelled images.

  Attributes:
    evidence: How much the pairs and the prior count.
    rows: Rows, one per candidate: `pseudo_count`, `factor` of the prior
      precisions with the largest evidence, and `nll`.
  """

  evidence: files.Evidence
  rows: list[dict[str, float]]


def fit(
    model: checkpoint.Model,
    pairs: pairs_lib.PairSet,
    folder: str | os.PathLike,
    *,
    candidates: int = CANDIDATES,
    choose: Callable[[files.Fitted], files.Evidence] = files.maximise_evidence,
    max_bytes: int = memory.GIGABYTE,
    batch_size: int = pooled.BATCH_SIZE,
    num_threads: int = 4,
    progress: inputs.Progress | None = None,
    on_unusable: Callable[[str, str], None] | None = None,
) -> Fit:
  """Fills a folder with the Laplace posterior of a model, see `files`.

  An interrupted call goes on where it stopped when it is made again; where the
  factors are there already, only the choice is made anew. Several processes
  share the work where each makes this call, with a folder that all of them see.

  Args:
    model: Model from `tasks.load`.
    pairs: Images with captions, such as the model was trained on.
    folder: Folder that receives the posterior; made if it is missing.
    candidates: Captions that each image is compared with, and the other way
      round.
    choose: What finds the pseudo-data count and the prior precisions; the
      evidence with a pseudo-data count of 4 if not given, see `validated`.
    max_bytes: Budget of the image tower's activations, on each device.
    batch_size: Images per device.
    num_threads: Threads that read images.
    progress: Function called with a stage ("files", "pairs" or "curvature"),
      and the numbers of its units done and in all.
    on_unusable: Function called with the id of a pair whose image cannot be
      used, and with the reason; such pairs are left out and counted.

  Raises:
    ValueError: The folder holds something of other pairs, of another model or
      of other candidates, which is named; or too many images cannot be read.
  """
  folder = pathlib.Path(folder)
  if candidates < 2:
    raise ValueError(f"candidates is {candidates}, expected at least 2: there "
                     "must be something to tell apart")
  report = progress or (lambda stage, done, total: None)
  asked = identity_of(
      model, pairs, candidates=candidates, folder=folder,
      num_threads=num_threads, progress=functools.partial(report, "files"))
  found = _finished(folder, asked)
  if found is None:
    features = _features(
        model, pairs, folder / _WORK / "features", asked, report, on_unusable,
        max_bytes=max_bytes, batch_size=batch_size, num_threads=num_threads)
    factors = _factors(model, features, candidates, folder / _WORK, asked,
                       report)
    found = files.fitted(factors, _describe(model, pairs, factors, asked))
  evidence = choose(found)
  sharding.barrier("chosen")
  if sharding.is_first():
    files.write(folder, found, evidence)
    _remove_work(folder / _WORK)
  sharding.barrier("posterior")
  return Fit(found, evidence)


def of_released(
    found: released.Released,
    source: str | os.PathLike,
    *,
    model: checkpoint.Model | None = None,
    weight_norm2: Mapping[str, float] | None = None,
    pseudo_count: float = files.PSEUDO_COUNT,
) -> Fit:
  """Released factors with prior precisions that are fitted anew.

  Args:
    found: Factors from `released.read_folder`.
    source: Folder of these, for the record.
    model: Model that they are of; not needed where `weight_norm2` is given.
    weight_norm2: Sum of squares of the projection's weights, by side; those of
      the model if None.
    pseudo_count: How often each pair's curvature counts, > 0.

  Raises:
    ValueError: They are of another model, or neither model nor weights are
      given.
  """
  if weight_norm2 is None:
    if model is None:
      raise ValueError("expected a model, or weight_norm2 of its projections")
    weight_norm2 = _weight_norm2(model)
  fitted = released.fitted(
      found, name=pathlib.Path(source).name, weight_norm2=weight_norm2,
      model=model.name if model else None,
      model_fingerprint=model.fingerprint if model else None)
  evidence = files.maximise_evidence(fitted, pseudo_count)
  if model is not None:
    head.check(files.posterior(fitted, evidence),
               {"model_fingerprint": model.fingerprint}, model, source)
  return Fit(fitted, evidence)


def clear(folder: str | os.PathLike) -> list[str]:
  """Removes a posterior from its folder, for another one; all else stays.

  Args:
    folder: Folder of `fit` or of `jaxcal posterior`; it may be missing.

  Returns:
    What was kept, by its path in the folder.
  """
  return output_folder.remove_written(folder, _WRITTEN, (_WORK,))


def identity_of(
    model: checkpoint.Model,
    pairs: pairs_lib.PairSet,
    *,
    candidates: int,
    folder: pathlib.Path,
    num_threads: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
  """The identity of Kronecker factors: all that enters them.

  Args:
    model: See `fit`, as the others.
    pairs: Pairs, see `fit`.
    candidates: Number of candidates, see `fit`.
    folder: Folder that remembers what the images' files hold.
    num_threads: Threads that read files.
    progress: Function called with (files looked at, files in all).
  """
  return {
      **pooled.identity_of_towers(model),
      **contents.identity_of_pairs(
          pairs, memory=folder / _MEMORY, num_threads=num_threads,
          progress=progress),
      "candidates": candidates}


def validated(
    found: files.Fitted,
    model: checkpoint.Model,
    tasks: Sequence[inputs.Task],
    *,
    pseudo_counts: Sequence[float] = PSEUDO_COUNTS,
    prior_factors: Sequence[float] = PRIOR_FACTORS,
) -> Validated:
  """The pseudo-data count and prior precisions of the lowest validation NLL.

  Args:
    found: Kronecker factors.
    model: The model that they are of.
    tasks: Labelled images, none of those that are predicted later.
    pseudo_counts: Candidates of the pseudo-data count.
    prior_factors: Candidates, multiples of the prior precisions with the
      largest evidence.

  Raises:
    ValueError: No candidates, or an NLL that is not a number.
  """
  evidence = {count: files.maximise_evidence(found, count)
              for count in pseudo_counts}

  def score(pseudo_count, factor):
    posterior = files.posterior(
        found, files.scaled(evidence[pseudo_count], factor))
    return np.mean([_validation_nll(posterior, model, one) for one in tasks])

  best = marginal.grid_search(pseudo_counts, prior_factors, score)
  return Validated(
      files.scaled(
          evidence[best.pseudo_count],
          best.prior_precision),  # type: ignore[arg-type]
      [{"pseudo_count": count, "factor": factor, "nll": nll}
       for count, scores in zip(pseudo_counts, best.scores)
       for factor, nll in zip(prior_factors, scores)])


def _finished(folder, asked):
  """Factors that lie in the folder; None if there are none yet."""
  if not files.has_factors(folder):
    return None
  found = files.read(folder)
  if "identity" not in found.manifest:
    raise ValueError(
        f"{folder} holds a posterior that does not say which pairs it is of: "
        f"imported, or of an earlier version of jaxcal; {_ANOTHER_FOLDER}")
  identity.check(found.manifest["identity"], asked,
                 what=f"{folder} holds another posterior",
                 way_out=_ANOTHER_FOLDER)
  return found


def _describe(model, pairs, factors, asked):
  """What the manifest says of factors."""
  return {
      "model": model.name,
      "model_fingerprint": model.fingerprint,
      "likelihood": "sigmoid" if "logit_bias" in model.params else "infonce",
      "pairs": pairs.name,
      "num_pairs": len(pairs.ids),
      "left_out": dict(pairs.skipped),
      "num_unusable": len(pairs.ids) - factors["image"].num_pairs,
      "weight_norm2": _weight_norm2(model),
      "identity": asked,
      "provenance": provenance.describe(),
  }


def _weight_norm2(model):
  return {side: inputs.weight_norm2(one)
          for side, one in inputs.projections(model).items()}


def _features(
    model, pairs, folder, asked, report, on_unusable, *, max_bytes,
    batch_size, num_threads
) -> tuple[Pooled, Float[np.ndarray, "n w"]]:
  """Features before the projections, of the pairs whose image is sound."""
  # Other candidates can do with the same features.
  asked = {name: value for name, value in asked.items() if name != "candidates"}
  parts.open_folder(folder, pairs.ids, ("image", "text", "pair"),
                    identity=asked)
  todo = parts.missing(folder, len(pairs.ids))
  num_broken, num_seen = 0, 0
  tell = on_unusable or (lambda image_id, reason: None)
  with sharding.shared_out(todo, batch_size * jax.local_device_count()) as own:
    done = len(pairs.ids) - len(own)
    report("pairs", done, len(pairs.ids))
    for positions, batch in pooled.batches(
        model, pairs, own, max_bytes=max_bytes, batch_size=batch_size,
        num_threads=num_threads, on_unusable=lambda position, reason: tell(
            pairs.ids[position], reason)):
      count = len(positions)
      text = captions.pooled(model, [pairs.captions[i] for i in positions])
      pooled.write(folder, positions, "image", pooled.rows_of(batch, count), {
          "text": {"activations": np.asarray(text)},
          "pair": {"sound": batch.mask[:count]}})
      num_broken += int((~batch.mask[:count]).sum())
      num_seen += count
      report("pairs", done + num_seen, len(pairs.ids))
      if num_seen >= _FIRST_PAIRS:
        _refuse_unusable(num_broken, num_seen, pairs)
  sound = parts.gather(folder, "pair")["sound"]
  _refuse_unusable((~sound).sum(), len(sound), pairs)
  image = jax.tree.map(lambda x: x[sound], pooled.gather(folder, "image"))
  return image, parts.gather(folder, "text")["activations"][sound]


def _refuse_unusable(broken, seen, pairs):
  if broken > _MOST_UNUSABLE * seen:
    raise ValueError(f"only {seen - broken} of {seen} images of {pairs.name} "
                     "could be read; is it the right source?")


def _factors(model, features, candidates, work, asked, report):
  """Kronecker factors of both sides, block by block."""
  image, text = features
  maps = inputs.projections(model)
  project = jax.jit(towers.project)
  embeddings = {
      "image": np.asarray(project(image.activations, maps["image"],
                                  image.residual)),
      "text": np.asarray(project(text, maps["text"]))}
  activations = {"image": image.activations, "text": text}
  activations = {
      side: np.asarray(curvature.with_one(value))
      if maps[side].bias is not None else value
      for side, value in activations.items()}
  other = {"image": "text", "text": "image"}
  scale = jnp.exp(model.params["logit_scale"])
  bias = model.params.get("logit_bias")
  sums = {side: curvature.start(activations[side].shape[1],
                                embeddings[side].shape[1])
          for side in files.SIDES}
  done, sums = pytree.load(work / _SUMS, (0, sums), asked)
  done = int(done)
  blocks = curvature.blocks(len(text), candidates)
  mesh = sharding.data_mesh()
  report("curvature", done, len(blocks))
  for number in range(done, len(blocks)):
    rows, against = blocks[number]
    sums = {
        side: curvature.add(
            sums[side], activations[side][rows], embeddings[side][rows],
            embeddings[other[side]][against], scale, bias, mesh=mesh)
        for side in files.SIDES}
    pytree.save(work / _SUMS, (number + 1, sums), asked)
    report("curvature", number + 1, len(blocks))
  sums = jax.tree.map(np.asarray, sums)
  return {side: curvature.finish(sums[side]) for side in files.SIDES}


def _remove_work(work):
  """Removes what a finished fit has no use for; all else in there stays."""
  parts.remove(work / "features")
  (work / _SUMS).unlink(missing_ok=True)
  atomic.remove_leftovers(work)
  with contextlib.suppress(OSError):  # missing, or it holds what is kept
    work.rmdir()


def _validation_nll(posterior, model, task):
  """Mean NLL in nats of the full-covariance predictions of labelled images."""
  maps = inputs.projections(model)
  scale = jnp.exp(model.params["logit_scale"])
  return float(_nll(posterior, maps, scale, task))


@jax.jit
def _nll(posterior, maps, scale, task):
  texts = bayesian.embed(task.texts, maps["text"], posterior.text)
  images = bayesian.embed(
      task.images.activations, maps["image"], posterior.image,
      task.images.residual)
  logits = jax.vmap(
      lambda image: predictive.probit_logits(predictive.prob_cosine_full(
          image, texts, posterior, scale)))(images)
  return scoring.negative_log_likelihood(logits, task.labels).mean()
