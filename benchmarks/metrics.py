"""What measuring costs on as many predictions as ImageNet has, beside others.

Every metric of jaxcal.metrics, resamples of the ECE and splits for prediction
sets, and the same by other packages in the same run, in turns, once both give
the same number. Packages that are not installed are named and left out. The
time of a compiled program is that of running it; compiling has a column of its
own, and so has a plain call, which looks at its arguments first.
"""

import argparse
from collections.abc import Callable
from concurrent import futures
import functools
import importlib
import importlib.metadata
import multiprocessing
import pathlib
import re
import time
from typing import Any, NamedTuple
import warnings

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from jaxcal import predictions
from jaxcal.conformal import predicted
from jaxcal.conformal import scores
from jaxcal.conformal import split
from jaxcal.metrics import binning
from jaxcal.metrics import brier
from jaxcal.metrics import calibration
from jaxcal.metrics import debiased
from jaxcal.metrics import failure
from jaxcal.metrics import proximity
from jaxcal.metrics import scoring
from jaxcal.metrics import selective
from jaxcal.metrics import smooth
from jaxcal.metrics import statistics

_BINS = 20
_FLOOR, _RESAMPLES_FLOOR = 1.0, 10.0
# Calls of others that are made; the time of more is that of so many.
_FEW_RESAMPLES, _FEW_SPLITS, _FEW_CLASSES = 10, 1, 2
# What imports the part of a package that is compared.
_MODULES = {"torchmetrics": "torchmetrics.functional.classification",
            "torch-uncertainty": "torch_uncertainty.metrics",
            "netcal": "netcal.metrics",
            "torchcp": "torchcp.classification.score"}


class Data(NamedTuple):
  """Predictions and what is made of them, arrays of jax or tensors."""

  logits: Any
  probs: Any
  labels: Any
  confidence: Any
  hits: Any
  losses: Any


class Metric(NamedTuple):
  """A metric and the same by others.

  Attributes:
    ours: Function of arrays.
    given: Names of the arrays.
    others: Functions of `Data` of tensors, by package.
    tolerance: Largest difference that rounding and conventions may make.
    times: How much of the work the others are asked to do, as a factor.
  """

  ours: Callable[..., Any]
  given: tuple[str, ...]
  others: dict[str, Callable[[Data], Any]] = {}
  tolerance: float = 2e-5
  times: float = 1.0


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--num_images", type=int, default=50_000)
  parser.add_argument("--num_classes", type=int, default=1_000)
  parser.add_argument("--num_resamples", type=int, default=1_000)
  parser.add_argument("--num_splits", type=int, default=50)
  parser.add_argument("--scores", default=",".join(scores.SCORES))
  parser.add_argument("--repeats", type=int, default=3)
  args = parser.parse_args()

  installed = {name: importlib.metadata.version(name) for name in _MODULES
               if _found(name)}
  for name in _MODULES.keys() - installed:
    print(f"{name} is not installed: left out")
  arrays = _predictions(args.num_images, args.num_classes)
  ours, theirs = _of_jax(*arrays), _of_torch(*arrays) if installed else None
  rows = [row for name, metric in metrics(args.num_classes).items()
          for row in _measured(name, metric, ours, theirs, installed,
                               args.repeats)]
  print(timing.table(rows))
  resampled = _resampled(ours, theirs, installed, args)
  print(timing.table(resampled))
  splits = _splits(arrays, installed, args)
  print(timing.table(splits))
  memory = [_in_a_process(part, args.num_images, args.num_classes)
            for part in ("jaxcal", *installed)]
  print(timing.table(memory))
  claims = [timing.Claim(f"{row['metric']}: times as fast as {row['beside']}",
                         row["ratio"], floor=_FLOOR)
            for row in rows if row["ratio"]]
  claims += [timing.Claim(f"{row['what']}: times as fast as {row['beside']}",
                          row["ratio"], floor=_RESAMPLES_FLOOR)
             for row in resampled]
  timing.write("metrics", {
      "arguments": vars(args), "dtype": "float32", "installed": installed,
      "not_installed": sorted(_MODULES.keys() - installed), "rows": rows,
      "resamples": resampled, "splits": splits, "memory": memory}, claims)
  timing.finish(claims)


def metrics(num_classes: int) -> dict[str, Metric]:
  """All metrics by name, with the others that have them."""
  of = lambda name, **options: lambda data: _torchmetrics(
      name, data.probs, data.labels, num_classes, **options)
  binary = lambda name: lambda data: getattr(importlib.import_module(
      _MODULES["torchmetrics"]), name)(data.confidence, data.hits)
  tu = _torch_uncertainty
  both = ("probs", "labels")
  seen = ("confidence", "hits")
  ece = lambda function, **options: lambda probs, labels: function(
      scoring.top_probability(probs), scoring.correct(probs, labels),
      num_bins=_BINS, **options)
  expected = calibration.expected_calibration_error
  found = {
      "accuracy": Metric(scoring.accuracy, both, {
          "torchmetrics": of("accuracy", average="micro")}),
      "accuracy, top 5": Metric(
          functools.partial(scoring.accuracy, k=5), both,
          {"torchmetrics": of("accuracy", average="micro", top_k=5)}),
      "balanced accuracy": Metric(scoring.balanced_accuracy, both, {
          "torchmetrics": of("accuracy", average="macro")}),
      "NLL": Metric(
          lambda *x: jnp.mean(scoring.negative_log_likelihood(*x)),
          ("logits", "labels"), {"torch-uncertainty": lambda data: tu(
              "CategoricalNLL")(data.probs, data.labels)}, 1e-4),
      "Brier": Metric(
          lambda *x: jnp.mean(scoring.brier_score(*x)), both,
          {"torch-uncertainty": lambda data: tu(
              "BrierScore", num_classes=num_classes)(data.probs, data.labels)}),
      "top 5 probability": Metric(
          lambda x: jnp.mean(scoring.top_probability(x, k=5)), ("probs",)),
      **{f"ECE, {norm}": Metric(
          ece(expected, norm=norm, edges="left"), both,
          {"torchmetrics": of("calibration_error", norm=norm, n_bins=_BINS),
           "torch-uncertainty": lambda data, norm=norm: tu(
               "CalibrationError", task="multiclass", num_classes=num_classes,
               num_bins=_BINS, norm=norm)(data.probs, data.labels)})
         for norm in ("l1", "l2", "max")},
      **{f"adaptive ECE, {rule}": Metric(
          ece(calibration.adaptive_calibration_error, rule=rule), both,
          {"torch-uncertainty": lambda data: tu(
              "AdaptiveCalibrationError", task="multiclass",
              num_classes=num_classes, num_bins=_BINS)(
                  data.probs, data.labels)} if rule == "equal_count" else {})
         for rule in binning.RULES},
      "class-wise ECE": Metric(
          lambda *x: jnp.sum(calibration.classwise_calibration_errors(
              *x, num_bins=_BINS)[:_FEW_CLASSES]), both,
          {"torch-uncertainty": lambda data: tu(
              "ClasswiseCalibrationError", num_classes=_FEW_CLASSES,
              num_bins=_BINS, reduction="sum")(
                  data.probs[:, :_FEW_CLASSES].contiguous(),
                  (data.labels[:, None] == _arange(data)).long())},
          times=num_classes / _FEW_CLASSES),
      "smooth ECE": Metric(smooth.smooth_calibration_error, seen, {
          "torch-uncertainty": lambda data: tu(
              "SmoothCalibrationError", kernel_type="reflected")(
                  data.probs, data.labels)}, 4e-3),
      "AUROC": Metric(selective.roc_area, seen,
                      {"torchmetrics": binary("binary_auroc")}),
      "AUPR": Metric(selective.average_precision, seen,
                     {"torchmetrics": binary("binary_average_precision")}),
      "FPR95": Metric(selective.false_positive_rate, seen, {
          "torch-uncertainty": lambda data: tu("FPR95", pos_label=1)(
              data.confidence, data.hits)}),
      "AURC, trapezoids": Metric(
          selective.risk_coverage_trapezoid, ("losses", "confidence"),
          {"torch-uncertainty": lambda data: tu("AURC")(
              data.probs, data.labels)}),
      "AUGRC": Metric(
          selective.generalised_risk_coverage_area, ("losses", "confidence"),
          # Its curve begins at one image, and its area is over 1 - 1 / N.
          {"torch-uncertainty": lambda data: tu("AUGRC")(
              data.probs, data.labels)}, 1e-3),
      "negative entropy": Metric(
          lambda x: -jnp.mean(failure.negative_entropy(x)), ("logits",),
          {"torch-uncertainty": lambda data: tu("Entropy")(data.probs)}, 1e-4),
  }
  return found | {name: Metric(*one) for name, one in _alone().items()}


def _alone():
  """Metrics that no other package has, or that others do not compute alike."""
  seen = ("confidence", "hits")
  ranked = ("losses", "confidence")
  found = {name: (function, seen) for name, function in {
      "largest contribution": calibration.max_bin_contribution,
      "average gap": calibration.average_calibration_error,
      "over-confidence": calibration.overconfidence_error,
      "under-confidence": calibration.underconfidence_error,
      "OE": calibration.confidence_weighted_overconfidence_error,
      "confidence gap": calibration.confidence_gap,
      "debiased ECE": debiased.debiased_calibration_error,
      "KS": smooth.kolmogorov_smirnov_error,
      "MMCE": smooth.maximum_mean_calibration_error,
      "PIECE, by confidence": lambda confidence, hits: (
          proximity.proximity_calibration_error(confidence, hits, confidence)),
      "top-label Brier": brier.top_label_brier_score,
      "Brier terms": brier.brier_decomposition,
      "all of a failure score": failure.failure_prediction,
      "all of a detection score": failure.detection}.items()}
  found |= {name: (function, ranked) for name, function in {
      "AURC": selective.risk_coverage_area,
      "E-AURC": selective.excess_risk_coverage_area,
      "risk at coverage": lambda *x: selective.risk_at_coverage(*x, 0.8),
      "coverage at risk": lambda *x: selective.coverage_at_risk(*x, 0.3),
  }.items()}
  found |= {name: (function, ("logits",)) for name, function in {
      "MSP": failure.max_softmax, "max logit": failure.max_logit,
      "energy": failure.energy, "margin": failure.margin,
      "logit margin": failure.logit_margin, "Gini": failure.gini}.items()}
  return found | {"floor of the ECE": (
      lambda confidence: calibration.calibration_floor(
          confidence, key=jax.random.key(0)), ("confidence",))}


def _measured(name, metric, ours, theirs, installed, repeats):
  """Rows of one metric, one for each other package or a single one."""
  given = [getattr(ours, one) for one in metric.given]
  start = time.perf_counter()
  program = timing.compiled(metric.ours, *given)
  row = {"metric": name, "compile_s": time.perf_counter() - start}
  others = {package: functools.partial(call, theirs)
            for package, call in metric.others.items() if package in installed}
  value = program(*given)
  differences = {package: abs(float(call()) - float(value))
                 for package, call in others.items()}
  for package, difference in differences.items():
    assert difference <= metric.tolerance, f"{name}, {package}: {difference}"
  seconds = timing.measure_in_turns({
      "compiled": functools.partial(program, *given),
      "call": functools.partial(metric.ours, *given), **others}, repeats)
  row |= {"ms": 1e3 * seconds["compiled"], "call_ms": 1e3 * seconds["call"],
          "temporary_mb": timing.temporary_bytes(program) / 1e6}
  for package in others or (None,):
    its = metric.times * seconds.get(package, float("nan"))
    yield row | ({
        "beside": package, "its_ms": 1e3 * its,
        "extrapolated": metric.times != 1, "ratio": its / seconds["compiled"],
        "difference": differences[package]} if package else {
            "beside": None, "its_ms": None, "extrapolated": None,
            "ratio": None, "difference": None})


def _resampled(ours, theirs, installed, args):
  """Resamples of the ECE, beside netcal from predictions and confidences."""
  given = ours.confidence, ours.hits
  number, key = args.num_resamples, jax.random.key(0)

  def errors(confidence, hits):
    return statistics.bootstrap_samples(
        lambda weights: calibration.expected_calibration_error(
            confidence, hits, num_bins=_BINS, weights=weights),
        len(confidence), key=key, num_samples=number, batch_size=10)

  program, compile_s = timing.timed(timing.compiled, errors, *given)
  if "netcal" not in installed:
    return []
  measure = importlib.import_module(_MODULES["netcal"]).ECE(_BINS).measure
  ways = {"confidences": (theirs.confidence, theirs.hits),
          "predictions": (theirs.probs, theirs.labels)}
  ways = {name: [one.numpy() for one in arrays]
          for name, arrays in ways.items()}
  # The same resample.
  weights = np.asarray(statistics.resample_weights(
      jax.random.split(key, number)[0], args.num_images)).astype(int)
  drawn = np.repeat(np.arange(args.num_images), weights)
  first = float(program(*given)[0])
  for arrays in ways.values():
    error = measure(*(one[drawn] for one in arrays))
    assert abs(error - first) < 2e-5, (error, first)
  rng = np.random.default_rng(0)

  def resample(arrays):
    for _ in range(_FEW_RESAMPLES):
      rows = rng.integers(args.num_images, size=args.num_images)
      measure(*(one[rows] for one in arrays))

  seconds = timing.measure_in_turns(
      {"ours": functools.partial(program, *given), **{
          name: functools.partial(resample, arrays)
          for name, arrays in ways.items()}}, 2)
  rows = []
  for name in ways:
    its = seconds[name] * number / _FEW_RESAMPLES
    rows.append({
        "what": f"{number} resamples of the ECE", "compile_s": compile_s,
        "s": seconds["ours"], "temporary_mb": timing.temporary_bytes(
            program) / 1e6,
        "beside": f"netcal from {name}", "its_s": its,
        "extrapolated_from": _FEW_RESAMPLES, "ratio": its / seconds["ours"]})
  return rows


def _splits(arrays, installed, args):
  """Splits of each score, beside those of torchcp."""
  logits, labels = arrays
  given = predictions.Predictions(
      logits, labels, tuple(map(str, range(len(labels)))),
      tuple(map(str, range(args.num_classes))))
  rows = []
  for name in args.scores.split(","):
    run = functools.partial(
        predicted.measure, given, score=name, num_splits=args.num_splits)
    row, seconds = timing.timed(run)
    its = (_torchcp(name, logits, labels) if "torchcp" in installed else None)
    rows.append({
        "score": name, "num_splits": args.num_splits,
        "s_with_compiling": seconds,
        "coverage": row["coverage"], "mean_size": row["mean_size"],
        "torchcp_s": its and its * args.num_splits / _FEW_SPLITS,
        "extrapolated_from": its and _FEW_SPLITS})
  return rows


def _torchcp(name, logits, labels):
  """Seconds of torchcp for a few splits, once its thresholds are ours."""
  import torch
  from torchcp.classification import predictor
  from torchcp.classification import score as theirs
  random = {} if name == "lac" else {"randomized": name == "saps"}
  options = {"raps": {"penalty": 0.001, "kreg": 1}, "saps": {"weight": 0.2}}
  function = getattr(theirs, name.upper())(**random, **options.get(name, {}))
  half = len(labels) // 2
  logits, labels = torch.from_numpy(logits), torch.from_numpy(labels).long()
  using = predictor.SplitPredictor(function, alpha=0.1)

  def one_split():
    using.calculate_threshold(logits[:half], labels[:half], 0.1)
    return [using.predict_with_logits(part)
            for part in logits[half:].split(5000)]

  _, seconds = timing.timed(lambda: [one_split() for _ in range(_FEW_SPLITS)])
  if name != "saps":
    mine = {"lac": scores.least_ambiguous, "aps": scores.adaptive,
            "raps": scores.regularised_adaptive}[name](
                jax.nn.softmax(logits[:half].numpy()))
    own = np.take_along_axis(
        np.asarray(mine), labels[:half, None].numpy(), axis=1)[:, 0]
    np.testing.assert_allclose(
        split.threshold(own, 0.1), using.q_hat.item(), atol=1e-4)
  return seconds


def _in_a_process(part, num_images, num_classes):
  """Peak memory of all metrics of a package, in a process of its own."""
  with futures.ProcessPoolExecutor(
      1, mp_context=multiprocessing.get_context("spawn")) as pool:
    return pool.submit(_peak, part, num_images, num_classes).result()


def _peak(part, num_images, num_classes):
  warnings.simplefilter("ignore")
  arrays = _predictions(num_images, num_classes)
  ours, theirs = _of_jax(*arrays), part != "jaxcal" and _of_torch(*arrays)
  before = _peak_mb()
  for metric in metrics(num_classes).values():
    if part == "jaxcal":
      given = [getattr(ours, one) for one in metric.given]
      jax.block_until_ready(jax.jit(metric.ours)(*given))
    elif part in metric.others:
      metric.others[part](theirs)
  if part == "netcal":
    importlib.import_module(_MODULES[part]).ECE(_BINS).measure(
        theirs.probs.numpy(), theirs.labels.numpy())
  return {"metrics_of": part, "peak_mb": _peak_mb(),
          "with_data_alone_mb": before}


def _peak_mb():
  """Of this process alone: `ru_maxrss` begins at that of its parent."""
  status = pathlib.Path("/proc/self/status").read_text("utf-8")
  return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) / 1e3


def _found(name):
  try:
    importlib.import_module(_MODULES[name])
  except ImportError:
    return False
  return True


def _predictions(num_images, num_classes):
  """Logits of an over-confident model, and labels."""
  rng = np.random.default_rng(0)
  logits = 2.5 * rng.standard_normal((num_images, num_classes), np.float32)
  noise = rng.standard_exponential((num_images, num_classes), np.float32)
  labels = (logits - np.log(noise)).argmax(-1).astype(np.int32)
  return np.float32(1.5) * logits, labels


def _of_jax(logits, labels):
  logits, labels = jnp.asarray(logits), jnp.asarray(labels)
  probs = jax.nn.softmax(logits)
  hits = scoring.correct(probs, labels)
  return Data(logits, probs, labels, scoring.top_probability(probs), hits,
              1 - hits.astype(jnp.float32))


def _of_torch(logits, labels):
  """The same numbers, to the last bit."""
  import torch
  return Data(*(torch.from_numpy(
      np.array(one, np.int64 if one.dtype.kind in "bi" else None))
      for one in map(np.asarray, _of_jax(logits, labels))))


def _arange(data):
  import torch
  return torch.arange(_FEW_CLASSES)[None]


def _torchmetrics(name, probs, labels, num_classes, **options):
  module = importlib.import_module(_MODULES["torchmetrics"])
  return getattr(module, f"multiclass_{name}")(
      probs, labels, num_classes, **options)


def _torch_uncertainty(name, **options):
  """A function of all examples at once."""
  metric = getattr(importlib.import_module(_MODULES["torch-uncertainty"]), name)

  def run(*given):
    one = metric(**options)
    one.update(*given)
    return one.compute()

  return run


if __name__ == "__main__":
  warnings.simplefilter("ignore")
  main()
