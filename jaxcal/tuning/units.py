"""Few-shot tuning in units, which several processes share.

A unit is a data set, a method and seeds that are trained together, or a data
set and the model before tuning. Each is done whole by one process, on its own
devices: nothing is exchanged while it trains, and its numbers are those that
one process finds. What the image tower sees is computed before, by all.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import functools
import itertools
import pathlib
from typing import NamedTuple

from jaxcal import memory
from jaxcal import sharding
from jaxcal.clip import checkpoint as models
from jaxcal.storage import atomic
from jaxcal.tuning import fit
from jaxcal.tuning import images as images_lib
from jaxcal.tuning import task as task_lib
from jaxcal.tuning import vocabulary

_CLAIMS = "claims"


class Unit(NamedTuple):
  """What one process does by itself.

  Attributes:
    task: The data set.
    setting: The method and how it is trained; None for the zero-shot model.
    seeds: The seeds; that of the zero-shot model is 1.
  """

  task: task_lib.Task
  setting: fit.Setting | None
  seeds: tuple[int, ...]


def of(
    tasks: Sequence[task_lib.Task],
    settings: Sequence[fit.Setting],
    *,
    seeds_at_once: int = 0,
) -> list[Unit]:
  """All units, one data set after the other, zero-shot first.

  Args:
    tasks: The data sets.
    settings: The methods.
    seeds_at_once: Number of seeds that are trained together, 0 for all. One
      process takes all seeds of a method as one unit, whatever it is.
  """
  found = []
  for task, setting in itertools.product(tasks, (None, *settings)):
    if setting is None:
      found.append(Unit(task, None, (1,)))
      continue
    size = seeds_at_once if sharding.several() else 0
    found += [Unit(task, setting, tuple(seeds))
              for seeds in fit.groups(task.seeds, size)]
  return found


def claimed(units: Sequence[Unit], folder: pathlib.Path) -> Iterator[Unit]:
  """The units of this process, each when it has time for it.

  All processes go through the same units. At the end each waits for the others.

  Args:
    units: The units.
    folder: Folder of the run, which all processes see.
  """
  if not sharding.several():
    yield from units
    return
  claims = folder / _CLAIMS
  sharding.first_does(f"make {claims}", lambda: _without_claims(claims))
  for number, unit in enumerate(units):
    if atomic.write_new(claims / f"{number}.claim", b""):
      yield unit
  sharding.barrier("all units")
  if sharding.is_first():
    _without_claims(claims)
    with contextlib.suppress(OSError):  # something else lies there
      claims.rmdir()


def share_features(
    model: models.Model,
    units: Sequence[Unit],
    folder: pathlib.Path,
    outliers: Mapping[str, vocabulary.Candidates],
    *,
    max_bytes: int = memory.ON_HOST,
    batch_size: int = images_lib.BATCH_SIZE,
    num_threads: int = 4,
    progress: Callable[[str, int, int], None] | None = None,
) -> None:
  """What the image tower sees of all images, by all processes together.

  Of one process, each unit computes what it needs.

  Args:
    model: The frozen model.
    units: The units.
    folder: Folder that keeps the features, see `features_of`.
    outliers: What methods draw outliers from, by data set.
    max_bytes: Budget of the run on each device, see `memory.shares`.
    batch_size: Images per step of the image tower.
    num_threads: Threads that read images.
    progress: Function called with what images they are, and the numbers of
      images done and in all.
  """
  if not sharding.several():
    return
  report = progress or (lambda what, done, total: None)
  tower = memory.shares(max_bytes).image_tower

  def features(images, place, what):
    images_lib.features(
        model, images, folder=place, together=True, max_bytes=tower,
        batch_size=batch_size, num_threads=num_threads,
        progress=functools.partial(report, what))

  for task in {unit.task.name: unit.task for unit in units}.values():
    settings = [unit.setting for unit in units
                if unit.setting is not None and unit.task.name == task.name]
    own, name = features_of(folder, task), task.name
    for views, seed in dict.fromkeys((one.views, one.seed) for one in settings):
      images_lib.training(
          model, task.train, views, seed=seed, folder=own, together=True,
          batch_size=batch_size, num_threads=num_threads,
          progress=functools.partial(report, f"{name}: training images"))
    images = outliers[name].images
    if images is not None:
      features(images, fit.outliers_folder(own, images), f"{name}: outliers")
    for half, images in task.tests.items():
      features(images, features_of(folder, task, half), f"{name}: {half}")


def features_of(
    folder: pathlib.Path, task: task_lib.Task, half: str | None = None
) -> pathlib.Path:
  """Folder of the features of a data set.

  Args:
    folder: Folder that keeps the features of a run.
    task: The data set.
    half: Half of the classes whose test images they are of; None for training
      images and outliers.
  """
  return folder / task.name / (half or "")


def _without_claims(claims):
  """A folder in which nothing is claimed."""
  atomic.make_folder(claims)
  for path in claims.glob("*.claim"):
    path.unlink(missing_ok=True)
