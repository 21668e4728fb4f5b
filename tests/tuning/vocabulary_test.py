"""What methods draw outliers from, for each data set."""

import pathlib

from absl.testing import absltest
import pytest

from jaxcal import tasks
from jaxcal.data import load
from jaxcal.tuning import presets
from jaxcal.tuning import saved
from jaxcal.tuning import task as task_lib
from jaxcal.tuning import vocabulary


class CandidatesTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.task = task_lib.of_splits(
        load.images("digits", split="train"), load.images("digits", limit=10),
        num_shots=1, num_seeds=2)
    self.model = tasks.load("testbed")

  @pytest.mark.slow
  def test_each_method_draws_what_it_can(self):
    new = self.task.tests["new"].class_names
    known = vocabulary.encode(
        self.model, ["square", "circle", new[0], *self.task.class_names],
        num_context=1)
    found = vocabulary.candidates(
        known, self.model, [self.task], images=self.task.train)["digits"]
    self.assertCountEqual(found.words, ["square", "circle", new[0]])
    self.assertEqual(found.shared, (new[0],))
    of = lambda name, *additions: presets.spec(name, additions=additions)
    self.assertEqual(found.of(of("coop", "dor")), found.words)
    self.assertIs(found.of(of("clip_adapter", "dor")), self.task.train)
    self.assertIsNone(found.of(of("coop")))
    self.assertEqual(found.about(of("coop", "dor")), {"outliers": {
        "number": 3, "names_of_new_classes": (new[0],)}})
    self.assertEqual(found.about(of("coop")), {})
    without = vocabulary.candidates(
        known, self.model, [self.task], exclude_new=True)["digits"]
    self.assertCountEqual(without.words, ["square", "circle"])
    self.assertEqual(without.shared, ())

  def test_what_the_zero_shot_model_is_to_predict(self):
    output = pathlib.Path("runs")
    one, = saved.asked_of_half(
        output, self.task, "new", {1: None}, {"data": "d"}, {"config": 1})
    self.assertEqual(one.path, output / "predictions/digits/zero_shot/new-1")
    self.assertEqual(one.identity, {
        "data": "d", "prompt.template": self.task.template,
        "method": "zero_shot"})
    self.assertEqual(one.about, {"config": 1, "data": "digits"})


if __name__ == "__main__":
  absltest.main()
