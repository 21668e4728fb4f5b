"""Files of tuned parameters come back, or are seen to be something else."""

import json
import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from jaxcal.tuning import checkpoint
from jaxcal.tuning import methods


class CheckpointTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.path = pathlib.Path(self.create_tempdir().full_path, "seed-1")
    self.tuned = checkpoint.Tuned(
        methods.Spec("coop", ("dor",)),
        {"context": np.ones((4, 6), np.float32)}, ("cat", "dog"),
        np.array([0, 1]), {"seed": 1, "model.fingerprint": "ab"})
    checkpoint.save(self.path, self.tuned)

  @parameterized.parameters(True, False)
  def test_round_trip(self, with_labels):
    tuned = self.tuned if with_labels else self.tuned._replace(
        labels=np.zeros(0, np.int64))
    checkpoint.save(self.path, tuned)
    found = checkpoint.read(self.path)
    self.assertEqual(found.spec, tuned.spec)
    self.assertEqual(found.class_names, ("cat", "dog"))
    np.testing.assert_array_equal(found.labels, tuned.labels)
    self.assertEqual(found.labels.dtype, np.int64)
    self.assertEqual(found.about["seed"], 1)
    np.testing.assert_array_equal(
        found.params["context"], tuned.params["context"])

  @parameterized.parameters(
      ("labels", [0.5, 1]), ("labels", [float("inf")]), ("labels", [None]),
      ("labels", "x"), ("labels", [[0]]), ("class_names", [1, 2]),
      ("class_names", 3), ("spec", 3), ("spec", {}),
      ("base_method", "x"), ("base_method", []), ("additions", [[]]),
      ("additions", 3), ("num_context", "4"), ("num_context", True),
      ("outlier_weight", None), ("class_position", 1))
  def test_what_is_something_else(self, name, value):
    path = self.path.with_suffix(".json")
    about = json.loads(path.read_text())
    del about["sha256"], about["sha256_json"]
    (about if name in about else about["spec"])[name] = value
    path.write_text(json.dumps(about))
    with self.assertRaisesRegex(
        ValueError, r"seed-1.\* is not what `jaxcal tune` writes: .*; run it"):
      checkpoint.read(self.path)


if __name__ == "__main__":
  absltest.main()
