"""Predictions come back from disk as they were, or are refused."""

import json
import pathlib
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from jaxcal import predictions
from jaxcal.storage import pair


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
    with np.load(f"{path}.npz", allow_pickle=False) as arrays:
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

  def test_settings_alone(self):
    path = self._path()
    with self.assertRaises(FileNotFoundError):
      predictions.settings(path)
    predictions.save(_example(), path)
    pathlib.Path(f"{path}.npz").unlink()
    self.assertEqual(predictions.settings(path), _example().settings)
    pathlib.Path(f"{path}.json").write_text('{"settings": 3}')
    with self.assertRaisesRegex(ValueError, "damaged .no settings"):
      predictions.settings(path)

  def test_what_they_are_of_alone(self):
    path, ours = self._path(), _example()
    with self.assertRaisesRegex(FileNotFoundError, "written by `jaxcal eval"):
      predictions.images(path)
    predictions.save(ours, path)
    found = predictions.images(path)
    self.assertEqual((found.ids, found.class_names),
                     (ours.ids, ours.class_names))
    np.testing.assert_array_equal(found.labels, ours.labels)
    predictions.save(ours._replace(labels=None), path)
    self.assertIsNone(predictions.images(path).labels)
    file = pathlib.Path(f"{path}.npz")
    file.write_bytes(file.read_bytes()[:-9])
    with self.assertRaisesRegex(ValueError, "damaged"):
      predictions.images(path)

  def test_files_of_version_0_1_0(self):
    path, ours = self._path(), _example()
    path.parent.mkdir()
    pathlib.Path(f"{path}.json").write_text(json.dumps({
        "class_names": ours.class_names, "settings": dict(ours.settings)}))
    self.assertFalse(predictions.exists(path))
    np.savez_compressed(
        f"{path}.npz", logits=ours.logits, ids=np.array(ours.ids),
        labels=ours.labels, **{"info/entropy_before": np.arange(4.)})
    self.assertTrue(predictions.exists(path))
    theirs = predictions.load(path)
    np.testing.assert_array_equal(theirs.logits, ours.logits)
    self.assertEqual(theirs.settings, ours.settings)

  @parameterized.product(ending=("npz", "json"), old=(False, True))
  def test_damaged_files_are_named(self, ending, old):
    self.enter_context(mock.patch.object(pair, "_PAUSE", 0))
    path = self._path()
    predictions.save(_example(), path)
    if old:  # without checksums, damage shows in the format
      about = json.loads(pathlib.Path(f"{path}.json").read_text())
      del about["sha256"], about["sha256_json"]
      pathlib.Path(f"{path}.json").write_text(json.dumps(about))
    damaged = pathlib.Path(f"{path}.{ending}")
    content = damaged.read_bytes()
    flipped = bytearray(content)
    flipped[content.index(b"logits" if ending == "npz" else b"[")] ^= 1
    rng = np.random.default_rng(0)
    for broken in (b"", b"no zip", bytes(flipped), *(
        content[:cut] for cut in rng.choice(len(content) - 1, 5))):
      damaged.write_bytes(broken)
      with self.assertRaisesRegex(
          ValueError, f"o_tpt.v1.{ending}.* damaged.*Remove o_tpt.v1.npz and "
          "o_tpt.v1.json and give the command that wrote them again"):
        predictions.load(path)
    damaged.write_bytes(content)
    predictions.load(path)

  def test_files_that_are_something_else(self):
    path = self._path()
    path.parent.mkdir()
    np.savez(f"{path}.npz", x=np.zeros(3))
    pathlib.Path(f"{path}.json").write_text("{}")
    with self.assertRaisesRegex(
        ValueError, "npz is damaged .it has no 'logits'.. Remove"):
      predictions.load(path)

  @parameterized.parameters(
      ("logits", np.full((4, 3), "x"), "logits of <U1, expected real numbers"),
      ("logits", np.ones((4, 3), complex), "logits of complex128"),
      ("labels", np.ones(4), "labels of float64, expected whole"),
      ("labels", np.array([0, 3, 1, 1]), "label 3 of .* is outside"),
      ("ids", np.arange(4), "ids of int64 .4,., expected texts"),
      ("ids", np.array("a"), "ids of <U1 .., expected texts"),
      ("info/x", np.full(4, b"x"), "info/x of .S1, expected real numbers"))
  def test_arrays_that_are_something_else(self, name, value, message):
    path = self._path()
    predictions.save(_example(), path)
    about = json.loads(pathlib.Path(f"{path}.json").read_text())
    del about["sha256"], about["sha256_json"]
    pathlib.Path(f"{path}.json").write_text(json.dumps(about))
    with np.load(f"{path}.npz") as stored:
      found = dict(stored)
    np.savez(f"{path}.npz", **found | {name: value})
    with self.assertRaisesRegex(
        ValueError, f"v1.npz is damaged .{message}.*Remove o_tpt"):
      predictions.load(path)

  @parameterized.parameters(
      ("class_names", "cat", "class_names are no list of names"),
      ("class_names", [1, 2, 3], "class_names are no list of names"),
      ("settings", 3, "no settings"),
      ("settings", {"evidence": 3}, "its evidence is no list of names"))
  def test_json_that_says_something_else(self, name, value, message):
    path = self._path()
    predictions.save(_example(), path)
    about = json.loads(pathlib.Path(f"{path}.json").read_text())
    del about["sha256"], about["sha256_json"]
    pathlib.Path(f"{path}.json").write_text(json.dumps(about | {name: value}))
    with self.assertRaisesRegex(ValueError, f"v1.npz is damaged .{message}"):
      predictions.load(path)
    if name == "settings":
      with self.assertRaisesRegex(ValueError, f"v1.npz is damaged .{message}"):
        predictions.is_there(path, {})

  def test_round_trip_of_evidence_and_without_labels(self):
    path = self._path()
    evidence = {"image_features": np.ones((4, 5), np.float32),
                "zero_shot_view_logits": np.zeros((4, 2, 3), np.float32),
                "mean_cosine": np.float32(0.25)}
    predictions.save(_example(evidence=evidence, labels=None), path)
    theirs = predictions.load(path)
    self.assertIsNone(theirs.labels)
    self.assertEqual(set(theirs.evidence), set(evidence))
    for name, value in evidence.items():
      np.testing.assert_array_equal(theirs.evidence[name], value)

  def test_take(self):
    whole = _example(evidence={
        "scores": np.arange(12, dtype=np.float32).reshape(4, 3),
        "text_features": np.ones((3, 2), np.float32)})
    some = predictions.take(whole, [2, 0])
    predictions.check(some)
    np.testing.assert_array_equal(some.logits, whole.logits[[2, 0]])
    np.testing.assert_array_equal(some.labels, [1, 0])
    self.assertEqual(some.ids, ("3", "cat/1.jpg"))
    np.testing.assert_array_equal(some.info["entropy_before"], [2, 0])
    np.testing.assert_array_equal(
        some.evidence["scores"], [[6, 7, 8], [0, 1, 2]])
    self.assertEqual(some.evidence["text_features"].shape, (3, 2))
    self.assertIsNone(predictions.take(_example(labels=None), [1]).labels)

  @parameterized.parameters(
      (dict(ids=("a", "b", "a", "c")), "id 'a' occurs more than once"),
      (dict(labels=np.array([0, 3, 1, 1])), "label 3 of 'çà/2.jpg' is outside"),
      (dict(labels=np.array([0, -1, 1, 1])), "label -1"),
      (dict(logits=np.zeros((4, 2))), r"logits of shape \(4, 3\)"),
      (dict(labels=np.zeros(3, int)), r"labels of shape \(4,\)"),
      (dict(info={"x": np.zeros(3)}), "info 'x'"),
      (dict(evidence={"texts": np.zeros(3)}), "'texts'; choose from: scores"),
      (dict(evidence={"zero_shot_logits": np.zeros((4, 2))}),
       r"'zero_shot_logits' has shape \(4, 2\), expected \[n k\] with n = 4, "
       "k = 3"),
      (dict(evidence={"text_features": np.zeros((3, 2)),
                      "image_features": np.zeros((4, 5))}),
       r"'image_features' has shape \(4, 5\), .* with n = 4, d = 2"),
      (dict(logits=np.array([[0, 0, 0], [0, np.nan, 0], [0, 0, 0],
                             [0, 0, np.inf]])),
       "2 of 4 images have logits that are not finite, the first one 'çà"))
  def test_refusals(self, changes, message):
    with self.assertRaisesRegex(ValueError, message):
      predictions.check(_example(**changes))


if __name__ == "__main__":
  absltest.main()
