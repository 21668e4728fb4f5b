"""A batch shared out over the devices of one or several processes.

Nothing is exchanged between images: every device runs the same program on its
own rows, and every process hands in and takes back the rows of its own devices.
One device is a mesh of one.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import time
from typing import Any

import jax
from jax.sharding import AxisType
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np

from jaxcal import precision
from jaxcal.typing import Array
from jaxcal.typing import PyTree

_AXIS = "data"
_ROWS = PartitionSpec(_AXIS)
_WHOLE = PartitionSpec()
# Seconds between two looks at whether a device is done.
_SHORTEST_NAP = 0.0002
_LONGEST_NAP = 0.05


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
  """Devices in the order given; those of all processes if None."""
  # Not `jax.make_mesh`, which on some machines puts them in another order: what
  # is split over the `local_mesh` must lie where the whole mesh has it.
  return Mesh(np.array(devices or jax.devices()), (_AXIS,),
              axis_types=(AxisType.Auto,))


def local_mesh(mesh: Mesh) -> Mesh:
  """The part of a mesh that belongs to this process.

  Raises:
    ValueError: No device of the mesh does.
  """
  mine = [device for device in mesh.devices.flat
          if device.process_index == jax.process_index()]
  if not mine:
    raise ValueError(f"process {jax.process_index()} has no device among "
                     f"{list(mesh.devices.flat)}")
  return data_mesh(mine)


def local_rows(mesh: Mesh, rows_per_device: int) -> np.ndarray:
  """Which rows of a batch over the mesh this process holds, in their order."""
  rows = np.arange(mesh.devices.size * rows_per_device).reshape(
      mesh.devices.size, rows_per_device)
  mine = [device.process_index == jax.process_index()
          for device in mesh.devices.flat]
  return rows[mine].reshape(-1)


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
  """Every leaf whole on every device."""
  sharding = NamedSharding(mesh, _WHOLE)
  if mesh.devices.size == len(local_mesh(mesh).devices):
    return jax.device_put(tree, sharding)
  return jax.tree.map(
      lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)),
      tree)


def split(tree: PyTree, mesh: Mesh) -> PyTree:
  """Rows over devices: this process's rows become a batch over the mesh.

  Args:
    tree: Tree of leaves whose first axis are the rows of `local_rows`. Those
      that are split over the `local_mesh` already stay where they are.
    mesh: Mesh of this process or of all.

  Raises:
    ValueError: Rows that do not go round.
  """
  sharding = NamedSharding(mesh, _ROWS)
  local = NamedSharding(local_mesh(mesh), _ROWS)

  def place(x):
    if isinstance(x, jax.Array) and x.sharding.is_equivalent_to(local, x.ndim):
      shards = _in_order(x)
      rows = len(x) // len(shards) * mesh.devices.size
      return jax.make_array_from_single_device_arrays(
          (rows, *x.shape[1:]), sharding, shards)
    return jax.make_array_from_process_local_data(sharding, np.asarray(x))

  return jax.tree.map(place, tree)


def over_rows(
    function: Callable[[Any, Any], PyTree], mesh: Mesh
) -> Callable[[Any, Any], PyTree]:
  """Compiles `function(shared, rows)` to run on each device's own rows.

  Args:
    function: Pure function; what it returns has the rows on the first axis.
      `shared` is the same on all devices, see `replicate`; `rows` comes from
      `split`. Its products are at `precision.highest`, but for those of towers.
    mesh: The devices.
  """
  # Without the check of varying axes: with it, the derivative by a replicated
  # value (the context) would be summed over devices, images mixed with others.
  return jax.jit(jax.shard_map(
      precision.highest(function), mesh=mesh, in_specs=(_WHOLE, _ROWS),
      out_specs=_ROWS, check_vma=False))


def wait(tree: PyTree) -> None:
  """Waits until arrays are computed, in short naps.

  So an interrupt is answered at once, and not when a device is done.
  """
  nap = _SHORTEST_NAP
  for leaf in jax.tree.leaves(tree):
    while not leaf.is_ready():
      time.sleep(nap)
      nap = min(2 * nap, _LONGEST_NAP)


def gather_local(tree: PyTree) -> PyTree:
  """This process's rows of a batch, on the host; waits for them."""
  wait(tree)
  return jax.tree.map(
      lambda x: np.concatenate([np.asarray(rows) for rows in _in_order(x)]),
      tree)


def gather(tree: PyTree) -> PyTree:
  """The rows of a batch of all processes, on the host of each."""
  if not several():
    return gather_local(tree)
  from jax.experimental import multihost_utils
  return jax.tree.map(
      np.asarray, multihost_utils.process_allgather(tree, tiled=True))


def _in_order(x: Array) -> list[Array]:
  """What lies on each of this process's devices, in the order of the rows."""
  shards = sorted(x.addressable_shards, key=lambda s: s.index[0].start or 0)
  return [shard.data for shard in shards]


def told_by_all(text: str) -> list[str]:
  """What each process says, by its number; up to 1,000 bytes."""
  if not several():
    return [text]
  from jax.experimental import multihost_utils
  rows = multihost_utils.process_allgather(
      np.frombuffer(text.encode().ljust(1000), np.uint8))
  return [bytes(row).decode().rstrip() for row in rows]


def several() -> bool:
  """Whether this process shares its work with others."""
  return jax.process_count() > 1


def is_first() -> bool:
  """Whether this process writes what is written once."""
  return jax.process_index() == 0


def first_does(what: str, work: Callable[[], Any]) -> None:
  """Calls a function in the first process; where it fails, all of them do.

  Args:
    what: Phrase that says what the function does, for the other processes.
    work: Function without arguments.

  Raises:
    ValueError, OSError: The function raised it; the other processes raise a
      ValueError.
  """
  failed = None
  if is_first():
    try:
      work()
    except (OSError, ValueError) as error:
      failed = error
  if any_process(failed is not None):
    raise failed or ValueError(f"process 0 could not {what}; it says why")


@contextlib.contextmanager
def shared_out(
    rows: np.ndarray, size: int, *, together: bool = True
) -> Iterator[np.ndarray]:
  """The rows of a work list that this process does; waits for the others.

  Args:
    rows: What is left to do, read off a folder that all processes see.
    size: Rows of a batch. Batches are those of one process, to the last bit.
    together: Whether all processes do this at once; if not, this one does all.

  Yields:
    Whole batches that follow each other; those of all processes make up the
    list.
  """
  if not together or not several():
    yield rows
    return
  barrier("shared out")  # nobody writes before all have looked
  batch = np.arange(len(rows)) // size
  own = np.array_split(np.unique(batch), jax.process_count())
  yield rows[np.isin(batch, own[jax.process_index()])]
  barrier("done together")


def barrier(name: str) -> None:
  """Waits until all processes have come here; nothing for a single one."""
  if several():
    from jax.experimental import multihost_utils
    multihost_utils.sync_global_devices(name)


def any_process(value: bool) -> bool:
  """Whether it is true in any of the processes; waits for all of them."""
  if not several():
    return value
  from jax.experimental import multihost_utils
  return bool(multihost_utils.process_allgather(np.asarray(value)).any())
