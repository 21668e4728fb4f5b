"""Predictions at random, and their scores one example at a time."""

import math

import numpy as np

from jaxcal import predictions as predictions_lib
from jaxcal.report import summary

QUICK = summary.Conventions(num_resamples=20)


def predictions(logits, labels, **changes):
  n, k = logits.shape
  return predictions_lib.Predictions(
      np.asarray(logits, np.float32), np.asarray(labels, np.int32),
      tuple(map(str, range(n))), tuple(map(str, range(k))),
      {"context_shift": np.arange(n, dtype=np.float32)}, {})._replace(**changes)


def random(seed=0, n=300, k=5):
  rng = np.random.default_rng(seed)
  logits = 2 * rng.normal(size=(n, k))
  labels = np.where(rng.random(n) < 0.7, logits.argmax(-1),
                    rng.integers(0, k, n))
  return predictions(logits, labels)


def by_loops(given):
  """Accuracy, ECE, NLL, Brier and gap, one example at a time."""
  bins = [[] for _ in range(20)]
  nll = brier = 0
  for row, label in zip(given.logits.astype(float), given.labels):
    exponentials = [math.exp(z - max(row)) for z in row]
    probs = [e / sum(exponentials) for e in exponentials]
    confidence = max(probs)
    bins[max(math.ceil(confidence * 20) - 1, 0)].append(
        (confidence, probs.index(confidence) == label))
    nll -= math.log(probs[label])
    brier += sum((p - (c == label))**2 for c, p in enumerate(probs))
  n = len(given.labels)
  everything = [pair for members in bins for pair in members]
  return {
      "accuracy": sum(hit for _, hit in everything) / n,
      "confidence": sum(c for c, _ in everything) / n,
      "ece": sum(abs(sum(c - hit for c, hit in members))
                 for members in bins) / n,
      "mce": max(abs(sum(c - hit for c, hit in members)) / len(members)
                 for members in bins if members),
      "nll": nll / n,
      "brier": brier / n,
  }
