"""`jaxcal posterior fit`: image-text pairs in; factors and a posterior out."""

import json

from absl import flags
import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from jaxcal import parts as parts_lib
from jaxcal import provenance
from jaxcal import sharding
from jaxcal.adapt.prompt import bayesian
from jaxcal.cli import experiment
from jaxcal.cli import held_out
from jaxcal.cli import pair_sources
from jaxcal.cli import pooled
from jaxcal.cli import posterior_folder
from jaxcal.cli import posteriors
from jaxcal.cli import shared_flags
from jaxcal.clip import captions
from jaxcal.clip import towers
from jaxcal.data import pairs as pairs_lib
from jaxcal.metrics import scoring
from jaxcal.posterior import curvature
from jaxcal.posterior import files
from jaxcal.posterior import marginal
from jaxcal.posterior import predictive
from jaxcal.report import tables
from jaxcal.storage import pytree

EXAMPLE = "jaxcal posterior fit --config=bayesvlm"

_CANDIDATES = flags.DEFINE_integer(
    "candidates", 32768, "captions that each image is compared with, and the "
    "other way round; the number of pairs at most")
_CHOOSE = flags.DEFINE_enum(
    "choose", "evidence", ("evidence", "validation"), "prior precision by the "
    "marginal likelihood, or pseudo-count and prior precision by the NLL on "
    "config.temperature.split of config.data.name")
_PSEUDO_COUNTS = flags.DEFINE_list(
    "pseudo_counts", ["1", "4", "10", "40", "100", "400", "1000"],
    "to choose from, with --choose=validation")
_FLAGS = (*pair_sources.FLAGS, "candidates", "choose", "pseudo_counts")

# Of the released programs since their marginal likelihood was corrected.
DEFAULT_PSEUDO_COUNT = 4.0
_MOST_UNUSABLE = 0.5
# Of so many, before a wrong source is noticed.
_FIRST_PAIRS = 1000
# Of the prior precisions with the largest evidence, with --choose=validation.
_PRIOR_FACTORS = (0.1, 1.0, 10.0, 100.0)


def help_text() -> str:
  """What `jaxcal posterior fit --help` prints."""
  return "\n".join([
      "Fills config.posterior.folder with the Kronecker factors of both sides, "
      "their spectra,", "the posterior, a manifest and a figure, for "
      "`jaxcal evaluate`, `sweep` and", "`posterior select`. An interrupted "
      "run goes on where it stopped.", "",
      "Example:", f"  {EXAMPLE}", "", experiment.DATA_HELP, "",
      "Flags:", *shared_flags.flag_help(
          *_FLAGS, "config", "overwrite", "compilation_cache", "debug"),
      "", "Fields of the config, with their defaults:",
      *experiment.field_help()])


def main() -> None:
  """Fits the posterior that the flags describe."""
  config = experiment.checked_config()
  experiment.refuse_processes()
  folder = posterior_folder.folder_of(config)
  grid = _pseudo_counts()
  if _CANDIDATES.value < 2:
    raise ValueError(f"--candidates is {_CANDIDATES.value}, expected at least "
                     "2: there must be something to tell apart")
  validation = _validation_sets(config)
  model = experiment.load_model(config.model)
  pairs = pair_sources.load(config)
  about = _describe(config, model, pairs)
  # Late: a mistake in the flags costs no posterior.
  posterior_folder.take(folder)
  work = posterior_folder.begin(folder, about)
  if not (folder / "manifest.json").exists():
    features = _features(config, model, pairs, work / "features")
    factors = _factors(config, model, features, work)
    found = files.fitted(factors, about | {
        "num_unusable": len(pairs.ids) - factors["image"].num_pairs})
  else:
    found = files.read(folder)
  evidence = _choose(config, model, found, grid, validation)
  files.write(folder, found, evidence)
  posterior_folder.end(folder)
  posterior_folder.report(folder, found, evidence)


def _pseudo_counts():
  try:
    counts = [float(text) for text in _PSEUDO_COUNTS.value]
  except ValueError as error:
    raise ValueError(f"--pseudo_counts: {error}") from error
  if not counts or not all(0 < count < float("inf") for count in counts):
    raise ValueError(f"--pseudo_counts are {counts}, expected numbers > 0")
  return counts


def _describe(config, model, pairs):
  """What decides the factors, as the manifest has it."""
  maps = posteriors.projections(model)
  likelihood = "sigmoid" if "logit_bias" in model.params else "infonce"
  return json.loads(json.dumps({
      "model": config.model.name,
      "model_fingerprint": model.fingerprint,
      "image_precision": model.config.vision.precision,
      "text_precision": model.config.text.precision,
      "likelihood": likelihood,
      "pairs": pairs.name,
      "pairs_fingerprint": pairs_lib.fingerprint(pairs),
      "num_pairs": len(pairs.ids),
      "left_out": pairs.skipped,
      "candidates": _CANDIDATES.value,
      "weight_norm2": {side: posteriors.weight_norm2(one)
                       for side, one in maps.items()},
      "provenance": provenance.describe(),
  }, default=str))


def _features(config, model, pairs, folder):
  """Features before the projections, of the pairs whose image is sound."""
  parts_lib.open_folder(folder, pairs.ids, ("image", "text", "pair"))
  todo = parts_lib.missing(folder, len(pairs.ids))
  num_broken, num_seen = 0, 0
  report = lambda position, reason: tqdm.tqdm.write(
      f"left out: {pairs.ids[position]}: {reason}")
  with experiment.progress("pairs", len(pairs.ids), "pair") as bar:
    bar.update(len(pairs.ids) - len(todo))
    for asked, batch in pooled.batches(
        config, model, pairs, todo, on_unusable=report):
      _write_batch(folder, model, pairs, asked, batch)
      bar.update(len(asked))
      num_broken += int((~batch.mask[:len(asked)]).sum())
      num_seen += len(asked)
      if num_seen >= _FIRST_PAIRS:
        _refuse_unusable(num_broken, num_seen, pairs)
  sound = parts_lib.gather(folder, "pair")["sound"]
  _refuse_unusable((~sound).sum(), len(sound), pairs)
  image = jax.tree.map(lambda x: x[sound], pooled.gather(folder, "image"))
  return image, parts_lib.gather(folder, "text")["activations"][sound]


def _write_batch(folder, model, pairs, asked, batch):
  """Image and text features of the pairs that were asked for."""
  count = len(asked)
  image = jax.tree.map(lambda x: x[:count],
                       sharding.gather_local(batch.pooled))
  text = captions.pooled(model, [pairs.captions[i] for i in asked])
  pooled.write(folder, asked, "image", image,
               text={"activations": np.asarray(text)},
               pair={"sound": batch.mask[:count]})


def _refuse_unusable(broken, seen, pairs):
  if broken > _MOST_UNUSABLE * seen:
    raise ValueError(f"only {seen - broken} of {seen} images of {pairs.name} "
                     "could be read; is it the right source?")


def _factors(config, model, features, work):
  """Kronecker factors of both sides, block by block."""
  image, text = features
  maps = posteriors.projections(model)
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
  done, sums = pytree.load(work / "sums.npz", (0, sums))
  done = int(done)
  blocks = curvature.blocks(len(text), _CANDIDATES.value)
  mesh = sharding.data_mesh()
  with experiment.progress("curvature", len(blocks), "block") as bar:
    bar.update(done)
    for number in range(done, len(blocks)):
      rows, candidates = blocks[number]
      sums = {
          side: curvature.add(
              sums[side], activations[side][rows], embeddings[side][rows],
              embeddings[other[side]][candidates], scale, bias, mesh=mesh)
          for side in files.SIDES}
      pytree.save(work / "sums.npz", (number + 1, sums))
      bar.update(1)
  return {side: curvature.finish(sums[side]) for side in files.SIDES}


def _validation_sets(config):
  """Images by whose labels to choose, if --choose says so."""
  if _CHOOSE.value == "evidence":
    return []
  split, limit = config.temperature.split, config.temperature.limit
  if split in (None, config.data.split):
    raise ValueError("--choose=validation needs labels to choose by: name a "
                     "split other than config.data.split with "
                     "--config.temperature.split=...")
  return [images for name, target in zip(
      config.data.name, experiment.load_sets(config.data).values())
          for images in held_out.load(
              config, target, [name], split=split, limit=limit)]


def _choose(config, model, found, grid, validation):
  """The pseudo-data count and prior precisions that --choose asks for."""
  count = config.posterior.pseudo_count or DEFAULT_PSEUDO_COUNT
  if _CHOOSE.value == "evidence":
    return files.maximise_evidence(found, count)
  tasks = [pooled.task(config, model, images) for images in validation]
  evidence = {count: files.maximise_evidence(found, count) for count in grid}

  def score(pseudo_count, factor):
    chosen = files.scaled(evidence[pseudo_count], factor)
    return np.mean([_validation_nll(
        files.posterior(found, chosen), model, one) for one in tasks])

  best = marginal.grid_search(grid, _PRIOR_FACTORS, score)
  rows = [{"pseudo_count": count, "factor": factor, "nll": nll}
          for count, scores in zip(grid, best.scores)
          for factor, nll in zip(_PRIOR_FACTORS, scores)]
  print(tables.markdown(rows, tables.VALIDATION), end="\n\n")
  return files.scaled(evidence[best.pseudo_count], best.prior_precision)


def _validation_nll(posterior, model, task):
  """Mean NLL in nats of the full-covariance answers to labelled images."""
  maps = posteriors.projections(model)
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
