"""Numbers of other packages, to hold metrics and prediction sets against.

  python -m tests.reference_numbers

writes reference_numbers.json, with the versions of what is installed by
`pip install jaxcal[reference]`. The packages are run in float64.
"""

from collections.abc import Callable
import importlib.metadata
import json
import pathlib
import re
from typing import Any, NamedTuple
from unittest import mock
import warnings

import numpy as np

FILE = pathlib.Path(__file__).with_suffix(".json")
NUM_BINS, ALPHA, NUM_CLUSTERS = 15, 0.1, 2
RAPS = {"penalty": 0.1, "kreg": 2}
PACKAGES = ("netcal", "torchmetrics", "torch-uncertainty", "torchcp")


class Data(NamedTuple):
  """Predictions for images, the first half of which calibrates sets."""

  logits: np.ndarray
  probs: np.ndarray
  labels: np.ndarray
  uniforms: np.ndarray

  @property
  def seen(self):
    """Confidences and hits."""
    return self.probs.max(1), self.probs.argmax(1) == self.labels


def data(n: int = 400, k: int = 6) -> Data:
  """Predictions of an over-confident model, no confidence near an edge."""
  rng = np.random.default_rng(0)
  # Of few digits, so that no version of the generator changes them.
  logits = rng.normal(0, 2, (n, k)).round(4)
  labels = (logits / 1.7 + rng.gumbel(size=(n, k))).argmax(1)
  powers = np.exp(logits)
  return Data(logits, powers / powers.sum(1, keepdims=True), labels,
              rng.uniform(size=n).round(6))


def on_edges() -> tuple[np.ndarray, np.ndarray]:
  """Confidences, every second an edge of 16 bins, and hits."""
  confidence = np.repeat(np.arange(17, 32) / 32, 5)
  return confidence, np.arange(len(confidence)) % 3 > 0


def numbers(package: str) -> dict[str, Any]:
  """Numbers of a package by name, floats and lists of floats."""
  return _OF[package](data())


def main():
  found = {package: {"version": importlib.metadata.version(package),
                     "numbers": numbers(package)} for package in PACKAGES}
  text = json.dumps(found, indent=1)
  # A list on a line.
  text = re.sub(r"\[[^]]*]", lambda one: " ".join(one[0].split()), text)
  FILE.write_text(f"{text}\n", "utf-8")


def _netcal(of: Data):
  from netcal import metrics
  seen = of.seen[0], of.seen[1].astype(int)
  edges = on_edges()[0], on_edges()[1].astype(int)
  return {
      **{name: float(getattr(metrics, name)(NUM_BINS).measure(*seen))
         for name in ("ECE", "MCE", "ACE")},
      "ECE of predictions": float(
          metrics.ECE(NUM_BINS).measure(of.probs, of.labels)),
      "ECE on edges": float(metrics.ECE(16).measure(*edges))}


def _torchmetrics(of: Data):
  import torch
  from torchmetrics.functional import classification
  probs, labels = torch.from_numpy(of.probs), torch.from_numpy(of.labels)
  confidence, hits = (torch.from_numpy(np.array(x, float)) for x in of.seen)
  edges = (torch.from_numpy(np.array(x, float)) for x in on_edges())
  k = probs.shape[1]
  return {
      **{f"ECE {norm}": classification.multiclass_calibration_error(
          probs, labels, k, n_bins=NUM_BINS, norm=norm).item()
         for norm in ("l1", "l2", "max")},
      "ECE on edges": classification.binary_calibration_error(
          *(x.double() if i == 0 else x.long() for i, x in enumerate(edges)),
          n_bins=16).item(),
      **{f"accuracy {average}": classification.multiclass_accuracy(
          probs, labels, k, average=average).item()
         for average in ("micro", "macro")},
      "accuracy top 3": classification.multiclass_accuracy(
          probs, labels, k, average="micro", top_k=3).item(),
      "AUROC": classification.binary_auroc(confidence, hits.long()).item(),
      "AUPR": classification.binary_average_precision(
          confidence, hits.long()).item()}


def _torch_uncertainty(of: Data):
  import torch
  from torch_uncertainty import metrics
  probs, labels = torch.from_numpy(of.probs), torch.from_numpy(of.labels)

  def value(name, **options):
    metric = getattr(metrics, name)(**options)
    metric.update(probs, labels)
    return metric.compute().tolist()

  k = probs.shape[1]
  adaptive = {"task": "multiclass", "num_classes": k, "num_bins": NUM_BINS}
  return {
      "classwise": value("ClasswiseCalibrationError", num_classes=k,
                         num_bins=NUM_BINS, reduction="none"),
      **{f"adaptive {norm}": value(
          "AdaptiveCalibrationError", norm=norm, **adaptive)
         for norm in ("l1", "l2", "max")},
      "Brier": value("BrierScore", num_classes=k),
      "NLL": value("CategoricalNLL"), "AURC": value("AURC")}


def _torchcp(of: Data):
  import torch
  from torchcp.classification import predictor
  from torchcp.classification import score as scores
  logits, labels = torch.from_numpy(of.logits), torch.from_numpy(of.labels)
  half = len(labels) // 2
  own = of.probs[np.arange(len(labels)), of.labels]
  rank = (of.probs > own[:, None]).sum(1)

  def found(score, kind="SplitPredictor", *, first_turned=False, **options):
    # Of SAPS, the own class of rank one has u in place of 1 - u.
    own = np.where((rank == 0) & first_turned, 1 - of.uniforms, of.uniforms)
    chosen = getattr(predictor, kind)(score, alpha=ALPHA, **options)
    with _drawn(own[:half]):
      chosen.calculate_threshold(logits[:half], labels[:half], ALPHA)
    with _drawn(of.uniforms[half:]):
      sets = chosen.predict_with_logits(logits[half:])
    return {"threshold": chosen.q_hat.tolist(),
            "sizes": sets.sum(1).int().tolist()}

  return {
      "LAC": found(scores.LAC()),
      "LAC by class": found(scores.LAC(), "ClassConditionalPredictor"),
      # Of the images that calibrate, as no draw of others is the same here.
      "LAC by cluster": found(
          scores.LAC(), "ClusteredPredictor", split="doubledip",
          ratio_clustering=0.5, num_clusters=NUM_CLUSTERS),
      "APS": found(scores.APS(randomized=False)),
      "APS randomised": found(scores.APS(randomized=True)),
      "RAPS": found(scores.RAPS(randomized=False, **RAPS)),
      "RAPS randomised": found(scores.RAPS(randomized=True, **RAPS)),
      "SAPS randomised": found(
          scores.SAPS(randomized=True, weight=0.2), first_turned=True)}


def _drawn(uniforms):
  """What torch draws: one number for each image, of all its classes."""
  import torch

  def rand(*shape, **_):
    shape = tuple(shape[0]) if np.ndim(shape[0]) else shape
    given = torch.from_numpy(uniforms)
    return given if len(shape) == 1 else given[:, None].expand(*shape)

  return mock.patch.object(torch, "rand", rand)


_OF: dict[str, Callable[[Data], dict[str, Any]]] = {
    "netcal": _netcal, "torchmetrics": _torchmetrics,
    "torch-uncertainty": _torch_uncertainty, "torchcp": _torchcp}


if __name__ == "__main__":
  warnings.simplefilter("ignore")
  main()
