"""Units of few-shot tuning, and how several processes share them."""

import pathlib
from unittest import mock

from absl.testing import absltest
import jax
import numpy as np

from jaxcal import sharding
from jaxcal.data import image_set
from jaxcal.tuning import fit
from jaxcal.tuning import presets
from jaxcal.tuning import task
from jaxcal.tuning import units

_IMAGES = image_set.ImageSet(
    "some", ("cat",), ("0",), np.zeros(1, np.int32), lambda i: None)
_TASKS = [task.Task(name, {}, _IMAGES, np.zeros((3, 1), int))
          for name in ("some", "others")]
_SETTINGS = [fit.Setting(presets.spec(name), presets.recipe(name))
             for name in ("coop", "kgcoop")]


def _process(number, count):
  """As if this were one of several processes that are always in time."""
  return mock.patch.multiple(
      jax, process_count=lambda: count, process_index=lambda: number)


def _names(found):
  return [(one.task.name, one.setting and one.setting.spec.name, one.seeds)
          for one in found]


class UnitsTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.barriers = []
    for name, stand_in in (("barrier", self.barriers.append),
                           ("any_process", lambda value: value)):
      self.enter_context(mock.patch.object(sharding, name, stand_in))

  def test_one_process_trains_all_seeds_of_a_method_as_one_unit(self):
    found = units.of(_TASKS, _SETTINGS, seeds_at_once=1)
    self.assertEqual(_names(found), [
        (of, method, (1,) if method is None else (1, 2, 3))
        for of in ("some", "others") for method in (None, "coop", "kgcoop")])

  def test_several_processes_share_the_seeds_that_are_not_trained_at_once(self):
    with _process(0, 2):
      found = units.of(_TASKS[:1], _SETTINGS[:1], seeds_at_once=2)
    self.assertEqual([one.seeds for one in found], [(1,), (1, 2), (3,)])

  def test_every_unit_is_of_one_process(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    with _process(0, 2):
      work = units.of(_TASKS, _SETTINGS)
      first = units.claimed(work, folder)
      taken = [[next(first)], []]
    with _process(1, 2):
      second = units.claimed(work, folder)
      taken[1] += [next(second), next(second)]
    with _process(0, 2):
      taken[0] += [next(first) for _ in range(3)]
    with _process(1, 2):
      taken[1] += list(second)
    with _process(0, 2):
      taken[0] += list(first)
    self.assertEqual(_names(taken[0]), _names([work[0], *work[3:]]))
    self.assertEqual(_names(taken[1]), _names(work[1:3]))
    self.assertEqual(self.barriers, ["all units"] * 2)

  def test_claims_of_a_run_that_was_killed_do_not_count(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    work = units.of(_TASKS, _SETTINGS)
    with _process(0, 2):
      next(units.claimed(work, folder))
      self.assertEqual(
          _names(units.claimed(work, folder)), _names(work))
    self.assertFalse(list(folder.iterdir()))

  def test_one_process_claims_nothing(self):
    work = units.of(_TASKS, _SETTINGS)
    self.assertEqual(
        _names(units.claimed(work, pathlib.Path("/nowhere"))), _names(work))


if __name__ == "__main__":
  absltest.main()
