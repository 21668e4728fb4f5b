"""What test-time methods predict for image sets, in the folder of a run.

What is there already, and of the same, is not computed again: predictions and
unfinished work alike lie beside their identity (`storage.identity`).
"""

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
import json
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxcal import parts as parts_lib
from jaxcal import predictions as predictions_lib
from jaxcal import run
from jaxcal import sharding
from jaxcal import stages
from jaxcal import streams
from jaxcal.adapt import base
from jaxcal.adapt import numbers
from jaxcal.data import image_set as image_sets
from jaxcal.storage import identity as identity_lib
from jaxcal.storage import paths

_PARTS = "parts-"  # what folders of unfinished work begin with

# From methods, settings by name, the folder of unfinished work and the seeds of
# several orders, if there are any, to (name, Predictions), as `run.iterate` and
# `streams.iterate` give them.
Compute = Callable[
    [run.Methods, Mapping[str, Mapping[str, Any]], pathlib.Path, Sequence[int]],
    Iterator[tuple[str, predictions_lib.Predictions]]]


class Asked(NamedTuple):
  """Predictions of an image set that are to be in a folder; see `asked`.

  Attributes:
    place: Place of the set among the predictions of a run.
    folder: Folder of the set's predictions.
    images: The image set.
    methods: Numbers of the methods by name.
    outputs: Stages of the predictions by the name of their file.
    common: Identity of all that methods share: images, model, views, prompts.
    by_name: Identity of each one's predictions, `common` among it.
    evidence: Names of the arrays that they are to carry.
    called: Names of the methods in rows, where they are not those of `methods`.
    store: Folder for features that are had in several orders; None where there
      are none.
    num_others: Number of images at the end of the set that are of none of its
      classes; what is predicted for them lies apart.
  """

  place: str
  folder: pathlib.Path
  images: image_sets.ImageSet
  methods: run.Methods
  outputs: Mapping[str, stages.Stages]
  common: Mapping[str, Any]
  by_name: Mapping[str, Mapping[str, Any]]
  evidence: tuple[str, ...] = ()
  called: Mapping[str, str] = {}
  store: pathlib.Path | None = None
  num_others: int = 0

  @property
  def num_own(self) -> int:
    """Number of images that are of the classes."""
    return len(self.images.ids) - self.num_others

  @property
  def folders(self) -> tuple[pathlib.Path, ...]:
    """Folders of the predictions: for images of the classes, and for others."""
    beside = self.folder / predictions_lib.OUT_OF_DISTRIBUTION
    return (self.folder, beside) if self.num_others else (self.folder,)

  @property
  def size(self) -> int:
    """Number of images, as often as there are methods."""
    return len(self.images.ids) * len(self.methods)

  @property
  def plain(self) -> list[str]:
    """Names of the predictions without a posterior."""
    return [name for name, one in self.outputs.items()
            if one.posterior is None]

  def stages_of(self, name: str) -> stages.Stages:
    """The stages of predictions, as rows and settings have them."""
    found = self.outputs[name]
    return found._replace(method=self.called.get(found.method, found.method))


def asked(
    place: str,
    folder: pathlib.Path,
    images: image_sets.ImageSet,
    methods: run.Methods,
    *,
    common: Mapping[str, Any],
    order: Mapping[str, Any],
    feature_size: int,
    order_seeds: Sequence[int] = (),
    posterior: Mapping[str, Any] | None = None,
    evidence: tuple[str, ...] = (),
    called: Mapping[str, str] = {},
    store: pathlib.Path | None = None,
    num_others: int = 0,
) -> Asked:
  """Everything that some methods are to predict for an image set.

  Args:
    place: Place of the set among the predictions of a run.
    folder: Folder of the set's predictions.
    images: The image set.
    methods: Numbers of the methods by name.
    common: Identity of images, model, views and prompts.
    order: Identity of the order of the images, for methods with a state.
    feature_size: Size of the joint space of images and texts.
    order_seeds: Seeds of several orders, for methods with a state; the one that
      `order` tells if empty.
    posterior: Identity of what predicts in the posterior's forms, too; None
      without a posterior.
    evidence: Names of the arrays that predictions are to carry.
    called: See `Asked`.
    store: See `Asked`.
    num_others: See `Asked`.
  """
  features: Any = jax.ShapeDtypeStruct(
      (len(images.class_names), feature_size), np.float32)
  outputs: dict[str, stages.Stages] = {}
  by_name: dict[str, dict[str, Any]] = {}
  for name, of in run.output_names(
      methods, with_posterior=posterior is not None).items():
    method = methods[of.method]
    found = {**common, **numbers.identity_of(method)}
    has_state = base.has_state(method.method(), base.Task(features, 1.0))
    if has_state and order_seeds:
      along = streams.names([name], order_seeds)
      outputs |= along
      by_name |= {label: {**found, **order, "stream.seed": one.order_seed}
                  for label, one in along.items()}
      continue
    outputs[name] = of
    by_name[name] = {**found, **(order if has_state else {})}
    if of.posterior is not None:
      by_name[name] |= {**(posterior or {}), "posterior.form": of.posterior}
  # More evidence than asked for does no harm to what is there.
  several = any(one.order_seed is not None for one in outputs.values())
  return Asked(place, folder, images, methods, outputs,
               {**common, "evidence": list(evidence)}, by_name, evidence,
               called, store if several else None, num_others)


def missing(of: Asked) -> list[str]:
  """Names of the predictions that are not there, with all the evidence.

  Raises:
    ValueError: Predictions of something else lie there.
  """
  return [name for name, one in of.by_name.items()
          if not all([predictions_lib.is_there(  # each of them is looked at
              paths.inside(folder, name), one, evidence=of.evidence)
                      for folder in of.folders])]


def groups(
    of: Asked, names: Sequence[str]) -> dict[pathlib.Path, Sequence[str]]:
  """Names to be computed together, by the folder of their unfinished work.

  Those that an interrupted run had begun together are finished together, also
  where some of them are saved already: in other company they would round
  otherwise. Their folder goes by the identity of each of them.

  Args:
    of: What is asked for.
    names: Names of the predictions that are missing.
  """
  found: dict[pathlib.Path, Sequence[str]] = {}
  left = list(names)
  for parts in sorted(of.folder.glob(f"{_PARTS}*")):
    begun = parts_lib.names(parts)
    if set(begun) & set(left) and set(begun) <= set(of.by_name) and (
        parts == _parts_folder(of, begun)):
      found[parts] = begun
      left = [name for name in left if name not in begun]
  for in_orders in (False, True):
    found |= _begun_now(of, {
        name: one for name, one in of.outputs.items()
        if (one.order_seed is not None) == in_orders}, left)
  return found


def _begun_now(of, outputs, left):
  """The group of what is left of some outputs, with all that comes with it."""
  together = [outputs[name] for name in left if name in outputs]
  methods = {one.method for one in together}
  seeds = {one.order_seed for one in together}
  group = tuple(name for name, one in outputs.items()
                if one.method in methods and one.order_seed in seeds)
  return {_parts_folder(of, group): group} if group else {}


def _parts_folder(of, names):
  """Where unfinished work of some predictions lies."""
  digest = identity_lib.of_lines([json.dumps(
      [of.common, {name: of.by_name[name] for name in names}],
      sort_keys=True)])
  return of.folder / f"{_PARTS}{digest}"


def predict(
    of: Asked, compute: Compute, about: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[str, pathlib.Path]]:
  """Names of the predictions and their paths, as they are saved.

  Several processes share the images; the first one saves, and only there is
  anything yielded.

  Args:
    of: What is asked for.
    compute: What computes the predictions that are missing.
    about: Settings to write into each one's predictions, by method.

  Raises:
    ValueError: Predictions of something else lie there.
  """
  todo = missing(of)
  sharding.barrier("looked for predictions")
  found: dict[str, Any] = {}  # by name, the iterator over its group
  for parts, names in groups(of, todo).items():
    together = dict.fromkeys(of.outputs[name].method for name in names)
    seeds = dict.fromkeys(of.outputs[name].order_seed for name in names)
    settings = {name: _settings(of, name, about) for name in todo
                if name in names and sharding.is_first()}
    group = compute({name: of.methods[name] for name in together}, settings,
                    parts, [seed for seed in seeds if seed is not None])
    found |= dict.fromkeys(names, group)
  if not sharding.is_first():
    # In the order in which the first process comes to them.
    for group in dict.fromkeys(found[name] for name in of.outputs
                               if name in todo):
      collections.deque(group, maxlen=0)  # runs, and yields nothing
    return
  for name in of.outputs:
    if name in todo:
      _, one = next(found[name])
      _save(of, name, one)
    yield name, paths.inside(of.folder, name)
  for parts in of.folder.glob(f"{_PARTS}*"):
    parts_lib.remove(parts)


def _save(of, name, one):
  """Saves predictions, those of images of other classes apart."""
  if of.num_others:
    others = predictions_lib.take(one, range(of.num_own, len(one.ids)))
    predictions_lib.save(
        others._replace(settings={
            **others.settings,
            "data": f"{of.place}/{predictions_lib.OUT_OF_DISTRIBUTION}"}),
        paths.inside(of.folders[1], name))
    one = predictions_lib.take(one, range(of.num_own))
  predictions_lib.save(one, paths.inside(of.folder, name))


def _settings(of, name, about):
  return {**about[of.outputs[name].method],
          **stages.setting(of.stages_of(name)), "method": name,
          "identity": dict(of.by_name[name]), "evidence": list(of.evidence)}
