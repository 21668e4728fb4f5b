"""Methods with a state along several orders of the images, all at once.

What such a method predicts depends on the order in which it sees the images, so
one order says how it does in that one. The states of all orders take their
steps together; features are had from a source at any positions, a stretch of
the streams at a time, so that memory does not grow with their length.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import pathlib
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal import outputs as outputs_lib
from jaxcal import parts as parts_lib
from jaxcal import sharding
from jaxcal import stages
from jaxcal import tasks
from jaxcal.adapt import base
from jaxcal.adapt import orders as orders_lib
from jaxcal.adapt import run as runners
from jaxcal.features import sources
from jaxcal.storage import pytree
from jaxcal.typing import Int
from jaxcal.typing import Positions

_STATES = "streams.npz"
_SAVE_SECONDS = 30  # between two saves of what streams remember
_BYTES = 2**27  # of the features that are held at a time
_LONGEST = 1024  # images of a stretch of each stream


def names(
    methods: Sequence[str], seeds: Sequence[int]) -> dict[str, stages.Stages]:
  """Names of the predictions that `iterate` gives, and the stages of each."""
  found = (stages.Stages(name, order_seed=seed)
           for name in methods for seed in seeds)
  return {of.label: of for of in found}


def iterate(
    methods: Mapping[str, base.Numbers],
    task: base.Task,
    source: sources.Source,
    orders: Mapping[int, Positions],
    *,
    evidence: Sequence[str] = (),
    parts: pathlib.Path | None = None,
    identity: Mapping[str, Any] | None = None,
    about: Mapping[str, Mapping[str, Any]] | None = None,
    devices: Sequence[jax.Device] | None = None,
    on_batch: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[str, outputs_lib.Predictions]]:
  """What methods with a state predict along each order; resumable.

  A generator: everything is computed when the first is asked for, and put
  together one by one. Several processes call this as they call `run.iterate`;
  each of them computes all, and the first one writes.

  Args:
    methods: Dataclasses of numbers by name, of methods with a state.
    task: Task with text features, or with an encoder and a context.
    source: Source that has features at any positions, each of them once for
      each order, as `sources.from_store` and `sources.from_arrays` give it.
    orders: Positions of the images as they are seen, by the seed of the order
      or any other number.
    evidence: Names of the arrays to add, of those that all methods share.
    parts: Folder that receives the outputs, and twice a minute the states; what
      lies there from an interrupted run with the same arguments is not computed
      again.
    identity: What the outputs are of; that of unfinished work in `parts` must
      be the same. Not compared if None.
    about: Settings to write into the predictions, by name; where given, only
      these are returned.
    devices: Devices that features are read to; those of all processes if None.
    on_batch: Function called with (images done, images in all) of each stream
      after each stretch.

  Yields:
    (name, Predictions), of all orders of a method one after the other, in the
    order of the source. Info `stream_position` is the number of images that
    came before.

  Raises:
    ValueError: An order that has not each position once; or see `run.predict`.
  """
  num_images = len(source.ids)
  orders = {seed: orders_lib.checked(order, num_images)
            for seed, order in orders.items()}
  outputs = names(list(methods), list(orders))
  about = {name: {} for name in outputs} if about is None else about
  task = tasks.encoded(task._replace(num_images=num_images))
  with tempfile.TemporaryDirectory() as scratch:
    folder = parts or pathlib.Path(scratch)
    _open(folder, source, list(methods), orders, identity)
    _compute(methods, task, source, orders, folder, evidence,
             sharding.data_mesh(devices), on_batch)
    sharding.barrier("streams predicted")
    first = _folder(folder, next(iter(orders)))
    common = outputs_lib.common_evidence(first, task, evidence)
    for name, settings in about.items():
      of = outputs[name]
      yield name, outputs_lib.gathered(
          _folder(folder, of.order_seed), name, source,
          {**stages.setting(of), **settings}, common)


def missing(
    folder: pathlib.Path, seeds: Sequence[int], num_images: int
) -> Int[np.ndarray, "r"]:
  """Positions of the images that some order has no outputs of, ascending.

  Nothing is written.

  Args:
    folder: Folder of unfinished work of `iterate`.
    seeds: Seeds of the orders.
    num_images: Number of images in the set.
  """
  return np.unique(np.concatenate([
      parts_lib.missing(_folder(folder, seed), num_images, set_aside=False)
      for seed in seeds]))


def _folder(folder, seed):
  return folder / f"order{seed}"


def _open(folder, source, methods, orders, identity):
  """The folders of parts, after all processes agree on them."""
  def agree():
    parts_lib.open_folder(folder, source.ids, list(names(
        methods, list(orders))), None, identity)
    for seed, order in orders.items():
      parts_lib.open_folder(
          _folder(folder, seed), source.ids, list(names(methods, [seed])),
          order, identity)

  if sharding.is_first():
    agree()
  sharding.barrier("folders of streams")
  agree()


def _compute(methods, task, source, orders, folder, evidence, mesh, on_batch):
  """Writes the outputs along all orders, from where they end."""
  along = {name: method.method() for name, method in methods.items()}
  num_images = len(source.ids)
  start, states = _resumed(folder, along, task, orders)
  positions = np.stack(list(orders.values()))
  size = _stretch(source, task, len(orders))
  stretches = [positions[:, first:first + size]
               for first in range(start, num_images, size)]
  needed = [np.unique(stretch) for stretch in stretches]
  # As many rows each time, for one program.
  rows = -(-min(size * len(orders), num_images) // mesh.devices.size)
  done, saved = start, time.monotonic()
  for stretch, asked, batch in zip(
      stretches, needed, source.batches(needed, mesh, rows, None)):
    features = sharding.gather(batch.view_features).astype(
        tasks.dtype_of(task), copy=False)
    states, outputs = _advance(
        along, task, states, features, np.searchsorted(asked, stretch))
    if sharding.is_first():
      _write(folder, source.ids, orders, stretch, done, outputs,
             _clean(task, features, np.searchsorted(asked, stretch[0]),
                    evidence))
    done += stretch.shape[1]
    if time.monotonic() - saved > _SAVE_SECONDS:
      pytree.save(folder / _STATES, (done, states))
      saved = time.monotonic()
    if on_batch is not None:
      on_batch(done, num_images)


def _stretch(source, task, num_orders):
  """Images of a stretch of each stream, whose features are held at a time."""
  shape = source.num_views, tasks.shaped(task).text_features.shape[-1]
  image = 4 * int(np.prod(shape))
  return int(np.clip(_BYTES // (image * num_orders), 1, _LONGEST))


def _resumed(folder, along, task, orders):
  """How many images of each stream are done, and the states afterwards.

  From the beginning, where a part before that was lost. Where there are outputs
  of all images, nothing is left, whatever was saved of the states.
  """
  num_images = task.num_images
  begun = (0, {name: runners.begin(method, task, len(orders))
               for name, method in along.items()})
  lacking = {seed: parts_lib.missing(_folder(folder, seed), num_images)
             for seed in orders}
  sharding.barrier("missing of streams")  # nobody writes before all have looked
  if not any(map(len, lacking.values())):
    return num_images, begun[1]
  done, states = pytree.load(folder / _STATES, begun)
  if any(np.isin(order[:int(done)], lacking[seed]).any()
         for seed, order in orders.items()):
    return begun
  return int(done), states


def _advance(along, task, states, features, rows):
  """The states after a stretch, and outputs [r c] on the host."""
  states, outputs = dict(states), {}
  for name, method in along.items():
    states[name], found = runners.advance(
        method, task, states[name], features, rows)
    outputs[name] = jax.tree.map(np.asarray, found)
  return states, outputs


def _clean(task, features, rows, evidence):
  """What is asked for of the clean views, for all methods."""
  clean = {"image_features": lambda x: x,
           "zero_shot_logits": lambda x: np.asarray(
               base.logits(task, jnp.asarray(x)))}
  return {name: function(features[rows, 0])
          for name, function in clean.items() if name in evidence}


def _write(folder, ids, orders, stretch, first, outputs, clean):
  """Outputs of each order in its own folder; those of all with the first."""
  place = first + np.arange(stretch.shape[1])
  for number, seed in enumerate(orders):
    of_order = {
        stages.Stages(name, order_seed=seed).label: outputs_lib.in_stream(
            jax.tree.map(lambda x, number=number: x[number], output), place)
        for name, output in outputs.items()}
    if clean and not number:
      of_order[outputs_lib.COMMON] = clean
    outputs_lib.write(
        _folder(folder, seed), ids, stretch[number], of_order)
