"""What methods say of images, checked and on disk, and as Predictions.

Outputs lie in parts (`parts`), batch by batch, until those of all images are
there.
"""

from collections.abc import Mapping, Sequence
import pathlib
from typing import Any

import jax
import numpy as np

from jaxcal import parts as parts_lib
from jaxcal import predictions as predictions_lib
from jaxcal import tasks
from jaxcal.adapt import base
from jaxcal.adapt import contract
from jaxcal.features import sources
from jaxcal.typing import Float
from jaxcal.typing import Int

Predictions = predictions_lib.Predictions

# Name of what all methods share among the outputs.
COMMON = ""


def in_stream(
    output: base.Output, position: Int[np.ndarray, "r"]) -> base.Output:
  """Outputs of a method with a state, which say where in the stream they came.

  Args:
    output: Outputs with a leading axis of images, on the host.
    position: Number of images that came before each of them.
  """
  info: dict[str, Any] = {
      **output.info,
      predictions_lib.STREAM_POSITION: np.asarray(position, np.float32)}
  return output._replace(info=info)


def write(
    folder: pathlib.Path,
    ids: Sequence[str],
    positions: Int[np.ndarray, "r"],
    outputs: Mapping[str, Any],
) -> None:
  """Checks the outputs of some images and writes them as a part.

  Args:
    folder: Folder from `parts.open_folder`.
    ids: Ids of all images.
    positions: Positions of these.
    outputs: `base.Output`s by name, with a leading axis of images, on the host;
      under `COMMON` a mapping of arrays.

  Raises:
    ValueError: Outputs of a method that are no distributions.
  """
  for name, output in outputs.items():
    if name != COMMON:
      try:
        contract.check_values(
            output, [ids[position] for position in positions])
      except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
  parts_lib.write(folder, positions, {
      name: _fields(output) if name != COMMON else output
      for name, output in outputs.items()})


def gathered(
    folder: pathlib.Path,
    name: str,
    source: sources.Source,
    settings: Mapping[str, Any],
    common: Mapping[str, Float[np.ndarray, "..."]],
) -> Predictions:
  """The predictions under a name, from all parts.

  Args:
    folder: Folder of the parts.
    name: Name of what predicts.
    source: Images of the parts.
    settings: Settings of the predictions.
    common: Evidence of all methods, from `common_evidence`.

  Raises:
    ValueError: Outputs are missing.
  """
  kinds = {"": {}, "info": {}, "evidence": dict(common)}
  for field, values in parts_lib.gather(folder, name).items():
    kind, dot, rest = field.partition(".")
    kinds[kind if dot else ""][rest or field] = values
  logits, log_probs = kinds[""]["scores"], kinds[""].get("log_probs")
  if log_probs is not None:
    kinds["evidence"]["scores"] = logits
    # A batch whose scores happen to be logits has them alone.
    logits = np.where(np.isnan(log_probs), _log_softmax(logits), log_probs)
  class_names = source.class_names or tuple(map(str, range(logits.shape[1])))
  return Predictions(
      logits, source.labels, source.ids, class_names, kinds["info"], settings,
      kinds["evidence"])


def common_evidence(
    folder: pathlib.Path, task: base.Task, evidence: Sequence[str]
) -> dict[str, Float[np.ndarray, "..."]]:
  """What was asked for and is the same for all methods.

  Args:
    folder: Folder of the parts.
    task: Task of the images.
    evidence: Names of the arrays that are asked for.
  """
  common = {name: values for name, values in parts_lib.gather(
      folder, COMMON).items() if name in evidence}
  if {"zero_shot_text_features", "mean_cosine"} & set(evidence):
    features = np.asarray(tasks.encoded(task).text_features, np.float32)
    if "zero_shot_text_features" in evidence:
      common["zero_shot_text_features"] = features
    if "mean_cosine" in evidence:
      cosines = features @ features.T
      others = ~np.eye(len(features), dtype=bool)
      common["mean_cosine"] = np.asarray(
          cosines[others].mean() if others.any() else 1, np.float32)
  return common


def _fields(output):
  """An output as it is saved: float32, nothing that follows from the rest."""
  output = jax.tree.map(lambda x: np.asarray(x, np.float32), output)
  fields = {"scores": output.scores}
  log_probs = output.log_probs
  if log_probs is not None and not np.allclose(
      _log_softmax(output.scores), log_probs, atol=1e-4):
    fields["log_probs"] = log_probs  # else the scores are logits
  return (fields |
          {f"info.{name}": value for name, value in output.info.items()} |
          {f"evidence.{name}": value
           for name, value in output.evidence.items()})


def _log_softmax(x):
  x = x - x.max(axis=-1, keepdims=True)
  return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
