"""A posterior from pairs of one's own to predictions, without the command."""

import pathlib
import tempfile
from unittest import mock

from absl.testing import absltest
import numpy as np
import pytest

import jaxcal
from jaxcal.data import image_set as image_sets
from jaxcal.data import pairs as pairs_lib
from jaxcal.posterior import curvature
from jaxcal.posterior import files
from jaxcal.posterior import fit
from jaxcal.posterior import head
from jaxcal.posterior import inputs
from jaxcal.posterior import laplace
from jaxcal.posterior import released
from jaxcal.testbed import pairs as testbed_pairs
from jaxcal.testbed import sets

_NUM_PAIRS = 12


def _nll(logits, labels):
  logits = np.float64(logits)
  logits -= logits.max(1, keepdims=True)
  own = logits[np.arange(len(labels)), labels]
  return np.mean(np.log(np.exp(logits).sum(1)) - own)


class FitTest(absltest.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    scratch = tempfile.TemporaryDirectory()
    cls.addClassCleanup(scratch.cleanup)
    cls.model = jaxcal.load("testbed")
    cls.pairs = testbed_pairs.load(_NUM_PAIRS)
    cls.folder = pathlib.Path(scratch.name, "fitted")
    cls.told = []
    cls.fitted = cls._fit(cls.folder, progress=lambda *at: cls.told.append(at))
    cls.images = image_sets.limit(sets.load("digits"), 10)

  @classmethod
  def _fit(cls, folder, pairs=None, candidates=5, **options):
    return fit.fit(cls.model, pairs or cls.pairs, folder,
                   candidates=candidates, batch_size=2, **options)

  def _new_folder(self):
    return pathlib.Path(self.create_tempdir().full_path, "new")

  @pytest.mark.slow
  def test_clear_leaves_what_is_not_of_a_posterior(self):
    folder = self._new_folder()
    self._fit(folder)
    (folder / "notes.txt").write_text("mine")
    self.assertEqual(fit.clear(folder), ["notes.txt"])
    self.assertEqual([path.name for path in folder.iterdir()], ["notes.txt"])
    self._fit(folder, candidates=4)  # nothing of the first is in the way

  def test_of_released_factors(self):
    found = released.Released(
        **self.fitted.found.factors, prior={}, asymmetry={})
    fitted = fit.of_released(
        found, "some/where", model=self.model, pseudo_count=10)
    self.assertEqual(fitted.evidence, files.maximise_evidence(
        self.fitted.found, 10))
    self.assertEqual(fitted.found.manifest["released"]["folder"], "where")
    self.assertEqual(fitted.found.manifest["model"], "testbed")
    norms = {"image": 3.0, "text": 4.0}
    fitted = fit.of_released(found, "some/where", weight_norm2=norms)
    self.assertEqual(fitted.found.manifest["weight_norm2"], norms)
    self.assertIsNone(fitted.found.manifest["model_fingerprint"])
    with self.assertRaisesRegex(ValueError, "expected a model, or"):
      fit.of_released(found, "some/where")
    small = curvature.Factors(np.eye(6), np.eye(4), 7)
    with self.assertRaisesRegex(
        ValueError, "some/where does not belong to testbed"):
      fit.of_released(released.Released(small, small, {}, {}), "some/where",
                      model=self.model)

  def test_progress_of_every_stage(self):
    for stage, total in (("pairs", _NUM_PAIRS), ("curvature", 3)):
      told = [(done, of) for name, done, of in self.told if name == stage]
      self.assertEqual(told[0], (0, total))
      self.assertEqual(told[-1], (total, total))
      self.assertEqual(told, sorted(told))
    self.assertEqual(list(dict.fromkeys(at[0] for at in self.told)),
                     ["pairs", "curvature"])

  def test_what_it_returns_is_what_lies_there(self):
    found = files.read(self.folder)
    for side in files.SIDES:
      for ours, theirs in zip(found.factors[side],
                              self.fitted.found.factors[side]):
        np.testing.assert_array_equal(ours, theirs)
    self.assertEqual(found.manifest["model"], "testbed")
    _, about = laplace.load(self.folder / "posterior")
    self.assertEqual(about["pseudo_count"], files.PSEUDO_COUNT)
    self.assertEqual(about["prior_precision"],
                     self.fitted.evidence.prior_precision)

  @pytest.mark.slow
  def test_another_choice_needs_no_other_factors(self):
    folder = self._new_folder()
    half = pairs_lib.limit(self.pairs, 6)
    one = self._fit(folder, half)
    with mock.patch.object(curvature, "add", side_effect=AssertionError):
      other = self._fit(folder, half, choose=lambda found: files.Evidence(
          9.0, {"image": 2.0, "text": 3.0}))
    np.testing.assert_array_equal(
        one.found.factors["text"].a, other.found.factors["text"].a)
    posterior, _ = laplace.load(folder / "posterior")
    np.testing.assert_allclose(
        np.linalg.inv(np.float64(posterior.text.b_inv)),
        3 * np.float64(one.found.factors["text"].b) +
        np.sqrt(3) * np.eye(128), atol=2e-4)

  @pytest.mark.slow
  def test_images_that_cannot_be_used_are_left_out(self):
    def read(position):
      if position in (2, 7):
        raise ValueError("broken")
      return self.pairs.read(position)

    told, folder = [], self._new_folder()
    found = self._fit(folder, self.pairs._replace(read=read),
                      on_unusable=lambda *why: told.append(why))
    self.assertEqual(found.found.manifest["num_unusable"], 2)
    self.assertCountEqual([image_id for image_id, _ in told],
                          [self.pairs.ids[2], self.pairs.ids[7]])
    keep = [i for i in range(_NUM_PAIRS) if i not in (2, 7)]
    sound = self.pairs._replace(
        ids=tuple(self.pairs.ids[i] for i in keep),
        captions=tuple(self.pairs.captions[i] for i in keep),
        read=lambda position: self.pairs.read(keep[position]))
    expected = self._fit(self._new_folder(), sound)
    for side in files.SIDES:
      np.testing.assert_allclose(
          found.found.factors[side].b, expected.found.factors[side].b,
          atol=1e-5)

  def test_other_pairs_are_refused(self):
    with self.assertRaisesRegex(
        ValueError, "(?s)pairs.captions: stored .*another folder"):
      self._fit(self.folder, self.pairs._replace(
          captions=self.pairs.captions[::-1]))
    with self.assertRaisesRegex(ValueError, "candidates: stored 5, asked 6"):
      self._fit(self.folder, candidates=6)
    with self.assertRaisesRegex(ValueError, "candidates is 1, expected at"):
      self._fit(self.folder, candidates=1)

  @pytest.mark.slow
  def test_validation_with_a_posterior_that_is_no_more_than_a_point(self):
    """A prior that lets nothing vary leaves the logits of the model."""
    task = inputs.task(self.model, self.images)
    found = fit.validated(self.fitted.found, self.model, [task],
                          pseudo_counts=[1.0], prior_factors=[1e14, 1.0])
    plain = jaxcal.predict(
        {"zero_shot": jaxcal.ZeroShot()},
        jaxcal.task_of(self.model, self.images.class_names), self.images,
        model=self.model, num_views=1)["zero_shot"]
    self.assertAlmostEqual(
        found.rows[0]["nll"], _nll(plain.logits, plain.labels), places=3)
    self.assertNotAlmostEqual(
        found.rows[0]["nll"], found.rows[1]["nll"], places=3)
    best = min(found.rows, key=lambda row: row["nll"])
    evidence = files.maximise_evidence(self.fitted.found, 1.0)
    self.assertEqual(found.evidence, files.scaled(evidence, best["factor"]))

  @pytest.mark.slow
  def test_predictions_with_it(self):
    chosen = head.load(self.folder, self.model)
    task = jaxcal.task_of(self.model, self.images.class_names)
    predict = lambda source, **options: jaxcal.predict(
        {"zero_shot": jaxcal.ZeroShot()}, task, source,
        head=head.head(chosen, self.model, 10), **options)
    found = predict(self.images, model=self.model, num_views=1)
    self.assertEqual(list(found), [
        "zero_shot", "zero_shot+diagonal", "zero_shot+full",
        "zero_shot+tangent"])
    self.assertGreater(np.abs(
        found["zero_shot+full"].logits - found["zero_shot"].logits).max(), 0.1)
    features = np.eye(10, 128, dtype=np.float32)
    with self.assertRaisesRegex(ValueError, "arrays do not tell: give an"):
      predict(features)


class HeadTest(absltest.TestCase):

  def test_identity_is_that_of_all_covariances(self):
    layer = lambda seed: laplace.Layer(*(
        np.diag(np.random.default_rng(seed).uniform(1, 2, size))
        for size in (3, 2)))
    chosen = head.Chosen(
        laplace.Posterior(layer(0), layer(1)), {"pseudo_count": 4.0})
    found = {tuple(head.identity_of(one).values()) for one in (
        chosen, chosen._replace(about={"pseudo_count": 5.0}),
        chosen._replace(posterior=laplace.Posterior(layer(0), layer(2))),
        chosen._replace(posterior=laplace.Posterior(layer(1), layer(0))))}
    self.assertLen(found, 4)


if __name__ == "__main__":
  absltest.main()
