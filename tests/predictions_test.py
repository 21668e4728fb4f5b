"""Predictions come back from disk as they were, or are refused."""

import json
import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from jaxcal import predictions


def _example(**changes):
  rng = np.random.default_rng(0)
  return predictions.Predictions(
      logits=rng.normal(size=(4, 3)).astype(np.float32),
      labels=np.array([0, 2, 1, 1], np.int32),
      ids=("cat/1.jpg", "çà/2.jpg", "3", "4"),
      class_names=("cat", "dog", "cat"),
      info={"entropy_before": np.arange(4, dtype=np.float32)},
      settings={"config.method.weight": None, "method": "tpt"},
  )._replace(**changes)


class PredictionsTest(parameterized.TestCase):

  def _path(self):
    return pathlib.Path(self.create_tempdir().full_path, "deep", "o_tpt.v1")

  def test_round_trip(self):
    path, ours = self._path(), _example()
    self.assertFalse(predictions.exists(path))
    predictions.save(ours, path)
    self.assertTrue(predictions.exists(path))
    theirs = predictions.load(path)
    np.testing.assert_array_equal(theirs.logits, ours.logits)
    np.testing.assert_array_equal(theirs.labels, ours.labels)
    np.testing.assert_array_equal(
        theirs.info["entropy_before"], ours.info["entropy_before"])
    self.assertEqual(theirs.ids, ours.ids)
    self.assertEqual(theirs.class_names, ours.class_names)
    self.assertEqual(theirs.settings, ours.settings)
    self.assertCountEqual(
        [p.name for p in path.parent.iterdir()], ["o_tpt.v1.npz",
                                                  "o_tpt.v1.json"])

  def test_needs_no_pickle_and_no_library_of_ours(self):
    path = self._path()
    predictions.save(_example(), path)
    arrays = np.load(f"{path}.npz", allow_pickle=False)
    self.assertEqual(arrays["ids"].tolist()[1], "çà/2.jpg")
    about = json.loads(pathlib.Path(f"{path}.json").read_text("utf-8"))
    self.assertEqual(about["class_names"], ["cat", "dog", "cat"])

  def test_missing_half(self):
    path = self._path()
    with self.assertRaisesRegex(FileNotFoundError, "written by `jaxcal eval"):
      predictions.load(path)
    predictions.save(_example(), path)
    pathlib.Path(f"{path}.json").unlink()
    with self.assertRaisesRegex(FileNotFoundError, "o_tpt.v1.json"):
      predictions.load(path)

  def test_concatenate(self):
    whole = _example()
    parts = [whole._replace(
        logits=whole.logits[part], labels=whole.labels[part],
        ids=whole.ids[part],
        info={"entropy_before": whole.info["entropy_before"][part]})
             for part in (slice(0, 3), slice(3, 4))]
    joined = predictions.concatenate(parts)
    np.testing.assert_array_equal(joined.logits, whole.logits)
    self.assertEqual(joined.ids, whole.ids)
    with self.assertRaisesRegex(ValueError, "different runs.*'4'"):
      predictions.concatenate(
          [parts[0], parts[1]._replace(settings={"method": "soc"})])
    with self.assertRaisesRegex(ValueError, "no parts"):
      predictions.concatenate([])

  @parameterized.parameters(
      (dict(ids=("a", "b", "a", "c")), "id 'a' occurs more than once"),
      (dict(labels=np.array([0, 3, 1, 1])), "label 3 of 'çà/2.jpg' is outside"),
      (dict(labels=np.array([0, -1, 1, 1])), "label -1"),
      (dict(logits=np.zeros((4, 2))), r"logits of shape \(4, 3\)"),
      (dict(labels=np.zeros(3, int)), r"labels of shape \(4,\)"),
      (dict(info={"x": np.zeros(3)}), "info 'x'"),
      (dict(logits=np.array([[0, 0, 0], [0, np.nan, 0], [0, 0, 0],
                             [0, 0, np.inf]])),
       "2 of 4 images have logits that are not finite, the first one 'çà"))
  def test_refusals(self, changes, message):
    with self.assertRaisesRegex(ValueError, message):
      predictions.check(_example(**changes))


if __name__ == "__main__":
  absltest.main()
