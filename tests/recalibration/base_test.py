"""The protocol: its evidence is that of the files, its needs are checked."""

import inspect
import typing

from absl.testing import absltest
import numpy as np

from jaxcal import predictions
from jaxcal.recalibration import base
from jaxcal.recalibration import calibrators


class EvidenceTest(absltest.TestCase):

  def test_fields_and_axes_are_those_of_the_files(self):
    _, labels, *others = base.Evidence._fields
    self.assertEqual(labels, "labels")
    self.assertEqual(others, list(predictions.EVIDENCE))
    hints = typing.get_type_hints(base.Evidence)
    for name, axes in predictions.EVIDENCE.items():
      *arrays, none = typing.get_args(hints[name])
      for array in arrays:
        self.assertEqual(array.dim_str, axes, name)
      self.assertIs(none, type(None))


class NeedsTest(absltest.TestCase):

  def test_missing_evidence_is_named_with_the_flag(self):
    one = base.Recalibrator(
        "mine", apply=lambda parameters, evidence: evidence.logits,
        needs=("zero_shot_logits", "text_features"))
    evidence = base.Evidence(np.ones((2, 3)))
    with self.assertRaisesRegex(
        ValueError, "mine needs zero_shot_logits, text_features of those.*"
        "--config.evidence=zero_shot_logits,text_features"):
      base.check_needs(one, evidence, of="those")
    evidence = evidence._replace(zero_shot_logits=np.ones((2, 3)))
    with self.assertRaisesRegex(ValueError, "mine needs text_features of"):
      base.check_needs(one, evidence, of="those")
    evidence = evidence._replace(text_features=np.ones((3, 4)))
    base.check_needs(one, evidence, of="those")
    with self.assertRaisesRegex(ValueError, "fitted to labels, which those do"):
      base.check_needs(one, evidence, of="those", for_fit=True)
    base.check_needs(one, evidence._replace(labels=np.zeros(2, int)),
                     of="those", for_fit=True)
    base.check_needs(one._replace(needs_labels=False), evidence, of="those",
                     for_fit=True)


class RecalibratorsTest(absltest.TestCase):

  def test_all_are_what_their_names_say_and_can_be_called_so(self):
    for name, calibrator in calibrators.RECALIBRATORS.items():
      one = calibrator().recalibrator()
      self.assertEqual(one.name, name)
      self.assertContainsSubset(one.needs, predictions.EVIDENCE)
      self.assertLen(inspect.signature(one.apply).parameters, 2)
      self.assertEqual(calibrator(), calibrator())  # frozen, compared by value


if __name__ == "__main__":
  absltest.main()
