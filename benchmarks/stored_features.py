"""BayesVLM on real CLIP features, without the model that they came from.

The features are unit-norm embeddings, so the Bayesian layer is a linear map
that starts as the identity. Its factors come from labelled images, each paired
with its class in one of the prompts; of the others a fifth of the whole choose
a temperature, or pseudo-data count and prior precision, by their NLL, and the
rest are predicted. The first table is of one split with 95 % bootstrap
intervals, the second one of all splits with standard deviations.

  python -m benchmarks.stored_features --features=CLIP_ViT-B-32.npz

The file holds `image_features` [n d], `labels` [n], `text_features` [p k d]
(p prompts), `prompts` and `classnames`, as in elkhouryk/RS-TransCLIP.
"""

import argparse
import json
import pathlib

import jax
import numpy as np

from benchmarks import timing
from jaxcal import predictions as predictions_lib
from jaxcal.adapt.prompt import bayesian
from jaxcal.metrics import scoring
from jaxcal.posterior import curvature
from jaxcal.posterior import files
from jaxcal.posterior import marginal
from jaxcal.posterior import predictive
from jaxcal.recalibration import temperature
from jaxcal.report import summary
from jaxcal.report import tables

_PROMPT = "a satellite photo of a"
_LOGIT_SCALE = 100.0
_PUBLISHED_COUNT = 4.0
# To choose from: pseudo-data counts, and prior precisions as multiples of the
# ones with the largest evidence. The last of them leaves hardly any variance.
_COUNTS = (1.0, 4.0, 10.0, 100.0, 1000.0)
_FACTORS = (0.1, 1.0, 10.0, 100.0, 1000.0, 1e6)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument(
      "--features", type=pathlib.Path, nargs="+", required=True)
  parser.add_argument("--splits", type=int, default=5)
  args = parser.parse_args()
  for path in args.features:
    if not path.exists():
      parser.error(f"no file {path}")
  rows, over = [], []
  for path in args.features:
    with np.load(path, allow_pickle=False) as arrays:
      data = {name: arrays[name] for name in arrays.files}
    of_path = [row | {"data": path.stem} for seed in range(args.splits)
               for row in _run(data, seed)]
    rows += of_path
    over += _over_splits(of_path)
  print(tables.markdown([row for row in rows if row["split"] == 0],
                        tables.RESULTS), end="\n\n")
  print(timing.table(over))
  timing.write("stored_features", {
      "features": [path.name for path in args.features], "prompt": _PROMPT,
      "over_splits": over, "rows": json.loads(json.dumps(rows))})


def _run(data, seed):
  """All predictions of one random split."""
  images = _unit(data["image_features"])
  texts = _unit(data["text_features"])
  prompt = data["prompts"].tolist().index(_PROMPT)
  labels = data["labels"].astype(np.int32)
  fit, validation, test = _split(labels, seed)
  rng = np.random.default_rng(seed)
  captions = texts[rng.integers(len(texts), size=len(fit)), labels[fit]]
  found = _fit(images[fit], captions)
  classes = texts[prompt]

  cosines = lambda rows: _LOGIT_SCALE * images[rows] @ classes.T
  predicted = {"zero_shot": cosines(test)}
  factor = temperature.fit_temperature(cosines(validation), labels[validation])
  predicted["zero_shot+temperature"] = temperature.apply(factor, cosines(test))
  chosen = {}
  predict = jax.jit(_predict, static_argnums=0)
  evidence = {count: files.maximise_evidence(found, count)
              for count in _COUNTS}
  posterior = lambda count, factor: files.posterior(
      found, files.scaled(evidence[count], factor))
  for form, prob_cosine in bayesian.FORMS.items():

    def score(count, factor, prob_cosine=prob_cosine):
      logits = predict(prob_cosine, posterior(count, factor),
                       images[validation], classes)
      return float(scoring.negative_log_likelihood(
          logits, labels[validation]).mean())

    best = marginal.grid_search(_COUNTS, _FACTORS, score)
    for how, point in (
        ("evidence", (_PUBLISHED_COUNT, 1.0)),
        ("validated", (best.pseudo_count, best.prior_precision))):
      name = f"zero_shot+{form}, {how}"
      chosen[name] = point
      predicted[name] = np.asarray(predict(
          prob_cosine, posterior(*point), images[test], classes))
  return [_row(name, logits, data, test, seed) | {
      "chosen": chosen.get(name), "temperature": factor}
          for name, logits in predicted.items()]


def _unit(features):
  features = features.astype(np.float32)
  return features / np.linalg.norm(features, axis=-1, keepdims=True)


def _split(labels, seed):
  """Two fifths to fit, one to choose, two to predict; class by class."""
  rng = np.random.default_rng([1, seed])
  parts = [[], [], []]
  for label in np.unique(labels):
    rows = rng.permutation(np.flatnonzero(labels == label))
    cuts = np.split(rows, [2 * len(rows) // 5, 3 * len(rows) // 5])
    for part, cut in zip(parts, cuts):
      part.extend(cut)
  return [np.sort(part) for part in parts]


def _fit(images, captions):
  """Factors of both sides; the layers are identities."""
  sides = {"image": (images, captions), "text": (captions, images)}
  factors = {
      side: curvature.kronecker_factors(
          own, own, other, _LOGIT_SCALE, block=len(own))
      for side, (own, other) in sides.items()}
  width = images.shape[1]
  return files.fitted(factors, {
      "model": "features", "model_fingerprint": None,
      "weight_norm2": {side: float(width) for side in files.SIDES}})


def _predict(prob_cosine, posterior, images, classes):
  embed = lambda x, layer: predictive.embedding(x, x, layer)
  texts = embed(classes, posterior.text)
  return jax.vmap(lambda image: predictive.probit_logits(prob_cosine(
      image, texts, posterior, _LOGIT_SCALE)))(embed(images, posterior.image))


def _row(name, logits, data, rows, seed):
  one = predictions_lib.Predictions(
      np.asarray(logits, np.float32), data["labels"][rows].astype(np.int32),
      tuple(map(str, rows)), tuple(data["classnames"].tolist()), {}, {})
  return {"method": name, "split": seed,
          **summary.summarise(one, summary.Conventions(num_resamples=500))}


def _over_splits(rows):
  """Mean and standard deviation over splits of what matters."""
  result = []
  for name in dict.fromkeys(row["method"] for row in rows):
    of_method = [row for row in rows if row["method"] == name]
    line = {"data": of_method[0]["data"], "method": name}
    for score in ("accuracy", "ece", "ece_floor", "confidence_gap", "nll",
                  "nll_clamped", "brier", "aurc"):
      values = [row[score] for row in of_method]
      line[score] = f"{np.mean(values):.4f} +- {np.std(values):.4f}"
    result.append(line)
  return result


if __name__ == "__main__":
  main()
