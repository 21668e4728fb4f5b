"""Tests that stages are fields, joined in one place and taken apart in none."""

import json

from absl.testing import absltest
from absl.testing import parameterized

from jaxcal import stages

_LABELS = {
    "soc": stages.Stages("soc"),
    "soc+full": stages.Stages("soc", posterior="full"),
    "coop+zs_norm+dor-2+temperature": stages.Stages(
        "coop", ("zs_norm", "dor"), 2, recalibrator="temperature"),
    "tda-order3+temperature": stages.Stages(
        "tda", recalibrator="temperature", order_seed=3),
    # A name of one's own may look like anything.
    "my-2": stages.Stages("my-2"),
}


class StagesTest(parameterized.TestCase):

  @parameterized.parameters(*_LABELS.items())
  def test_label_is_for_printing_and_fields_come_back(self, label, one):
    self.assertEqual(one.label, label)
    row = json.loads(json.dumps(stages.fields(one)))
    self.assertEqual(stages.of(row | {"data": "shapes", "ece": 0.1}), one)
    other = json.loads(json.dumps(stages.reference_fields(one)))
    self.assertEqual(stages.reference_of(other | row), one)

  def test_rows_have_the_stages_that_there_are(self):
    self.assertEqual(stages.fields(stages.Stages("soc")), {"method": "soc"})
    self.assertEqual(
        stages.reference_fields(stages.Stages("soc", posterior="full")),
        {"reference": "soc", "reference_posterior": "full"})

  @parameterized.parameters(
      {}, {"method": 3}, {"method": "soc", "additions": "dor"},
      {"method": "soc", "additions": [3]}, {"method": "soc", "posterior": []},
      {"method": "soc", "tuned_seed": "1"},
      {"method": "tda", "order_seed": "1"})
  def test_rows_without_stages(self, **row):
    with self.assertRaisesRegex(ValueError, "the stage .* is .*, expected"):
      stages.of(row)

  def test_settings_of_earlier_versions_have_the_name_of_the_file(self):
    self.assertEqual(
        stages.of_settings({"method": "x"}, "soc+full"),
        stages.Stages("soc+full"))
    one = stages.Stages("soc", posterior="full")
    self.assertEqual(stages.of_settings(
        {stages.SETTING: stages.fields(one)}, "soc+full"), one)


if __name__ == "__main__":
  absltest.main()
