"""Full conformal sets: stored, by refitting, and the draws they need."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcal.conformal import coverage
from jaxcal.conformal import full
from jaxcal.conformal import scores
from tests import error_bars
from tests import quick
from tests.conformal import oracle

_ALPHAS = (0.1, 0.05)
_SS_TEXT = dict(logit_scale=100.0, temperature=0.01)
_SO_LDA = dict(logit_scale=100.0, load=10.0, text_weight=1.0)
# Draws on real features, and how many images get sets in each.
_DRAWS, _IMAGES = 40, 40
_unit = lambda rows: rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def _data(cal, test):
  given = oracle.features()
  return full.Data(given.images[cal], given.labels[cal], given.images[test],
                   given.text)


def _random(n=12, m=3, k=4, d=6):
  rng = np.random.default_rng(0)
  rows = lambda count: _unit(rng.normal(size=(count, d)))
  return full.Data(rows(n), rng.integers(0, k - 1, n), rows(m), rows(k))


def _all_fits(fitted, data, score=scores.least_ambiguous, **numbers):
  """Scores of all images and candidates, [m k] and [m k n]."""
  m, k = len(data.others), len(data.text)

  @quick.jit
  def run(data):
    of_image = jax.vmap(fitted(data, score, **numbers), (None, 0))
    return jax.lax.map(lambda i: of_image(i, jnp.arange(k)), jnp.arange(m))

  return jax.device_get(run(data))


class StoredTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.enter_context(jax.enable_x64(True))
    self.file = oracle.stored("full_conformal")
    self.data = _data(self.file["cal"], self.file["test"])

  def _check(self, name, fits, found):
    score, calibration = fits
    np.testing.assert_allclose(score, self.file[f"{name}_score"], atol=1e-6)
    stored = self.file.get(
        f"{name.removesuffix('_lac')}_scores_of_calibration_0")
    if not name.endswith("aps"):
      np.testing.assert_allclose(calibration[0], stored, atol=1e-6)
    np.testing.assert_allclose(found, self.file[f"{name}_p"], atol=1e-12)
    for j, alpha in enumerate(_ALPHAS):
      np.testing.assert_array_equal(
          full.in_set(found, 95, alpha), self.file[f"{name}_sets"][j])

  @parameterized.parameters(("lac", scores.least_ambiguous),
                            ("aps", scores.adaptive))
  def test_ss_text(self, name, score):
    self._check(f"ss_text_{name}",
                _all_fits(full.ss_text_fit, self.data, score, **_SS_TEXT),
                full.ss_text(self.data, score))

  def test_so_lda(self):
    fits = _all_fits(full.so_lda_fit, self.data, **_SO_LDA)
    self._check("so_lda", fits, full.so_lda(self.data))

  def test_two_stages(self):
    for cal, test, stored, pruned in (
        ("cal", "test", "t_fcp_sets", 0.005),
        ("t304_cal", "t304_test", "t304_sets_0.005", 0.005),
        ("t304_cal", "t304_test", "t304_sets_0.02", 0.02)):
      data = _data(self.file[cal], self.file[test])
      seen = []

      def p_values(kept):
        seen.append(np.asarray(kept))
        return full.so_lda(data, candidates=kept)

      zero_shot, others = (oracle.softmax(100 * images @ data.text.T)
                           for images in (data.images, data.others))
      for j, alpha in enumerate(_ALPHAS):
        found = full.two_stage(
            p_values, zero_shot, data.labels, others, alpha, pruned=pruned)
        np.testing.assert_array_equal(found, self.file[stored][j])
        self.assertFalse((found & ~seen[-1]).any())
      survivors = self.file[stored.replace("sets", "survivors")]
      np.testing.assert_array_equal(seen[-1], survivors)

  def test_two_stages_of_few_images_prune_nothing(self):
    data = self.data
    zero_shot, others = (oracle.softmax(100 * images @ data.text.T)
                         for images in (data.images, data.others))
    whole = full.so_lda(data)
    found = full.two_stage(
        lambda kept: whole, zero_shot, data.labels, others, 0.1)
    np.testing.assert_array_equal(found, full.in_set(whole, 95, 0.095))


class RefitTest(parameterized.TestCase):
  """Everything fitted anew to each image and class, by numpy."""

  def setUp(self):
    super().setUp()
    self.enter_context(jax.enable_x64(True))
    self.data = _random()

  def _pairs(self):
    for i, image in enumerate(self.data.others):
      for c in range(4):
        yield i, c, np.append(self.data.images, image[None], axis=0), (
            np.append(self.data.labels, c))

  def test_ss_text(self):
    for score in (scores.least_ambiguous, scores.adaptive):
      ours = _all_fits(full.ss_text_fit, self.data, score, **_SS_TEXT)
      for i, c, images, labels in self._pairs():
        weights = self.data.text.copy()
        np.add.at(weights, labels, images / (13 * (1 / 13) * 0.01))
        probabilities = oracle.softmax(100 * images @ _unit(weights).T)
        expected = np.asarray(
            score(probabilities))[np.arange(13), labels]
        np.testing.assert_allclose(ours.calibration[i, c], expected[:-1])
        np.testing.assert_allclose(ours.score[i, c], expected[-1])

  def test_so_lda(self):
    ours = _all_fits(full.so_lda_fit, self.data, **_SO_LDA)
    images, labels, _, text = self.data
    rest = images - text[labels]
    spread = rest.T @ rest / 12
    loaded = spread + 10 * np.diag(np.diag(spread))
    for i, c, images, labels in self._pairs():
      z = images[-1] - text[c]
      inverse = np.linalg.inv(12 / 13 * loaded + np.outer(z, z) / 13)
      means = np.array([
          images[labels == y].mean(0) if (labels == y).any() else 0 * z
          for y in range(4)])
      weights = _unit((means + text) @ inverse)
      expected = 1 - oracle.softmax(
          100 * images @ weights.T)[np.arange(13), labels]
      np.testing.assert_allclose(
          ours.calibration[i, c], expected[:-1], atol=1e-12)
      np.testing.assert_allclose(ours.score[i, c], expected[-1], atol=1e-12)


class LargeTest(absltest.TestCase):

  def test_ss_text_of_more_images_than_its_least_regulariser(self):
    """From 1,000 images on, the weight of an image falls with their number."""
    data = _random(n=1500, m=1, k=3)
    with jax.enable_x64(True):
      ours = _all_fits(full.ss_text_fit, data, **_SS_TEXT)
    for c in range(3):
      images = np.append(data.images, data.others, axis=0)
      labels, weights = np.append(data.labels, c), data.text.copy()
      np.add.at(weights, labels, images / (1501 * 1e-3 * 0.01))
      expected = 1 - oracle.softmax(
          100 * images @ _unit(weights).T)[np.arange(1501), labels]
      np.testing.assert_allclose(
          ours.calibration[0, c], expected[:-1], atol=1e-12)
      np.testing.assert_allclose(ours.score[0, c], expected[-1], atol=1e-12)


class PValuesTest(parameterized.TestCase):

  @parameterized.parameters(full.ss_text, full.so_lda)
  @pytest.mark.slow
  def test_order_batches_and_candidates(self, method):
    with jax.enable_x64(True):
      data = _random()
      found = np.asarray(method(data))
      order = np.random.default_rng(1).permutation(12)
      np.testing.assert_array_equal(method(data._replace(
          images=data.images[order], labels=data.labels[order])), found)
      classes = np.array([2, 0, 3, 1])
      np.testing.assert_array_equal(
          method(data._replace(text=data.text[classes],
                               labels=np.argsort(classes)[data.labels])),
          found[:, classes])
      np.testing.assert_array_equal(
          method(data._replace(others=data.others[1:2])), found[1:2])
      kept = np.random.default_rng(2).uniform(size=(3, 4)) < 0.5
      np.testing.assert_array_equal(
          method(data, candidates=kept), np.where(kept, found, 0))
      np.testing.assert_array_equal(
          method(data, candidates=np.zeros((3, 4), bool)), np.zeros((3, 4)))
      np.testing.assert_array_equal(
          jax.jit(functools.partial(method))(data), found)

  @parameterized.parameters(full.ss_text, full.so_lda)
  def test_equal_scores_count_as_strange(self, method):
    """Every image is its class' text, so that all scores are exactly zero."""
    text = np.eye(3, 4)
    labels = np.arange(12) % 3
    noise = 1e-3 * np.random.default_rng(0).normal(size=(12, 4))
    with jax.enable_x64(True):
      found = method(full.Data(
          _unit(text[labels] + noise), labels, text, text))
    np.testing.assert_array_equal(np.diag(found), np.ones(3))

  def test_in_set_is_exact(self):
    for n, alpha in ((9, 0.1), (19, 0.1), (19, 0.05), (99, 0.1), (99, 0.3)):
      counts = np.arange(1, n + 2)
      for wide in (True, False):
        with jax.enable_x64(wide):
          found = full.in_set(counts[None] / (n + 1), n, alpha)
        np.testing.assert_array_equal(
            found[0], counts > round(alpha * (n + 1)), err_msg=f"{n}, {alpha}")

  def test_what_does_not_fit_together(self):
    data = _random()
    for method in (full.ss_text, full.so_lda):
      with self.assertRaisesRegex(ValueError, r"expected features \[n d\]"):
        method(data._replace(text=data.text[:, :5]))
      with self.assertRaisesRegex(ValueError, r"labels must lie in \[0, 4\)"):
        method(data._replace(labels=data.labels + 3))
    with self.assertRaisesRegex(ValueError, "pruning must be given a part of"):
      full.two_stage(lambda kept: kept, np.ones((3, 2)), np.zeros(3, int),
                     np.ones((2, 2)), 0.1, pruned=0.1)


class CoverageTest(parameterized.TestCase):
  """On WHU-RS19, some images at a time."""

  def _mean(self, p_values, draw, draws=_DRAWS):
    given = oracle.features()
    rng = np.random.default_rng(0)
    method = jax.jit(lambda data: full.in_set(p_values(data), 38, 0.1))
    hits = []
    for _ in range(draws):
      cal = draw(rng, given.labels)
      test = rng.permutation(np.setdiff1d(np.arange(1005), cal))[:_IMAGES]
      sets = np.asarray(method(_data(cal, test)))
      hits.append(sets[np.arange(_IMAGES), given.labels[test]].mean())
    return np.mean(hits)

  @parameterized.parameters(full.ss_text, full.so_lda)
  @pytest.mark.slow
  def test_an_independent_draw_keeps_the_promise(self, p_values):
    found = self._mean(
        p_values, lambda rng, labels: rng.permutation(1005)[:38])
    law = coverage.promise(38, _IMAGES, 0.1)
    self.assertAlmostEqual(
        found, law.mean, delta=error_bars.LEVEL * law.std / _DRAWS ** 0.5)

  @pytest.mark.slow
  def test_two_images_of_every_class_do_not(self):
    """As the docstring of the module says."""
    found = self._mean(full.ss_text, lambda rng, labels: np.concatenate([
        rng.permutation(np.flatnonzero(labels == y))[:2] for y in range(19)]),
                       draws=4 * _DRAWS)
    law = coverage.promise(38, _IMAGES, 0.1)
    self.assertLess(
        found, law.mean - error_bars.LEVEL * law.std / (4 * _DRAWS) ** 0.5)


if __name__ == "__main__":
  absltest.main()
