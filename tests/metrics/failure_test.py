"""Scores and measures of failures and detection against stored ones."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from jaxcal.metrics import densities
from jaxcal.metrics import failure
from tests import error_bars
from tests import shared

_MODELS = {"vitb32": "CLIP_ViT-B-32", "rn50": "CLIP_RN50"}
# Scores of logits alone.
_OF_LOGITS = {
    "msp": failure.max_softmax, "max_logit": failure.max_logit,
    "energy": failure.energy, "neg_entropy": failure.negative_entropy,
    "mcm": lambda z: failure.max_concept_matching(z / 100),
    "margin": failure.margin, "logit_margin": failure.logit_margin,
    "gini": failure.gini,
}


def _unit(features):
  features = features.astype(float)
  return features / np.linalg.norm(features, axis=-1, keepdims=True)


class _Stored:
  """Features of aerial photos and what was found with them."""

  def __init__(self, name):
    folder = shared.path("oracles/conformal")
    self.found = shared.arrays(folder / f"ranking_{name}.npz")
    path = shared.path("data/whurs19") / f"{_MODELS[name]}.npz"
    with np.load(path) as stored:
      self.images = _unit(stored["image_features"])
      texts = _unit(stored["text_features"][int(self.found["prompt_index"])])
      self.labels = stored["labels"]
    self.logits = 100 * self.images @ texts.T

  def part(self, kind):
    """Logits of the test images, and their log densities in each class."""
    logits = self.logits[self.found[f"{kind}_test"]]
    train, classes = self.found[f"{kind}_train"], np.arange(19)
    if kind == "o":
      logits = failure.dropped(logits, self.found["o_out"])
      classes = self.found["o_in"]
    gaussians = densities.fit(
        self.images[train], np.searchsorted(classes, self.labels[train]),
        num_components=16)
    return logits, densities.log_densities(
        gaussians, self.images[self.found[f"{kind}_test"]])


class OracleTest(parameterized.TestCase):

  @parameterized.product(name=tuple(_MODELS), kind=("f", "o"))
  def test_scores_and_measures(self, name, kind):
    with jax.enable_x64(True):
      stored = _Stored(name)
      logits, near = stored.part(kind)
      np.testing.assert_allclose(
          near, stored.found[f"{kind}_logdensity"], rtol=1e-6)
      scores = {one: function(logits) for one, function in _OF_LOGITS.items()}
      scores["icpe"] = failure.intra_class_proximity(logits, near)
      names = stored.found[f"{kind}_score_names"].tolist()
      for score, found in scores.items():
        index = names.index(score)
        probability = special.expit(found) if score == "msp" else found
        np.testing.assert_allclose(
            probability, stored.found[f"{kind}_scores"][index], rtol=0,
            atol=1e-10)
        measures = (
            failure.failure_prediction(found, stored.found["f_correct"])
            if kind == "f" else
            failure.detection(found, stored.found["o_in_distribution"]))
        self.assertEqual(
            list(measures._fields),
            stored.found[f"{kind}_metric_names"].tolist())
        np.testing.assert_allclose(
            measures, stored.found[f"{kind}_metrics"][index], rtol=0,
            atol=1e-10)

  @parameterized.parameters("f", "o")
  def test_resamples_as_weights(self, kind):
    groups = {"f": "f_correct", "o": "o_in_distribution"}[kind]
    measure = {"f": failure.failure_prediction, "o": failure.detection}[kind]
    with jax.enable_x64(True):
      found = _Stored("rn50").found
      scores = jnp.asarray(found[f"{kind}_scores"])
      counts = jnp.asarray(found[f"{kind}_counts"][:20].astype(float))
      run = jax.jit(jax.vmap(jax.vmap(
          lambda one, weights: jnp.stack(
              measure(one, found[groups], weights=weights)),
          (0, None)), (None, 0)))
      np.testing.assert_allclose(
          run(scores, counts), found[f"{kind}_bootstrap"][:20], rtol=0,
          atol=1e-6)

  def test_classes_left_out_many_times(self):
    # What is out of distribution changes the number more than images do.
    with jax.enable_x64(True):
      stored, generator = _Stored("vitb32"), np.random.default_rng(0)
      areas = {"dropped": [], "kept": [], "probabilities": []}
      detect = jax.jit(lambda *x: failure.detection(*x).auroc)
      for _ in range(100):
        out = generator.choice(19, 6, replace=False)
        inside = ~np.isin(stored.labels, out)
        kept = failure.dropped(stored.logits, out)
        probs = failure.dropped(special.softmax(stored.logits, -1), out)
        for name, scores in (("dropped", failure.max_softmax(kept)),
                             ("kept", failure.max_softmax(stored.logits)),
                             ("probabilities", np.max(probs, -1))):
          areas[name].append(float(detect(scores, inside)))
    areas = {name: np.array(values) for name, values in areas.items()}
    # Over all choices, of which these are drawn: classes that are left out must
    # be left out of the softmax, too, which is harder than to renormalise.
    for higher, lower in (("probabilities", "dropped"), ("dropped", "kept")):
      excess = areas[higher] - areas[lower]
      self.assertGreater(
          excess.mean(), error_bars.LEVEL * error_bars.of_mean(excess))

  @parameterized.parameters("clip", "siglip")
  def test_a_posterior(self, model):
    path = shared.path("oracles/bayesvlm") / "bayesvlm_oracle.npz"
    with np.load(path) as stored, jax.enable_x64(True):
      mean, variance = (stored[f"{model}.logit_{part}"]
                        for part in ("mean", "var"))
      found = failure.probit_softmax(mean, variance)
      np.testing.assert_allclose(
          special.expit(found), stored[f"{model}.prob_probit"].max(-1),
          rtol=1e-6)
      top = mean.argmax(-1)
      np.testing.assert_allclose(
          failure.negative_variance(mean, variance),
          [-variance[i, k] for i, k in enumerate(top)])
      # A variance set by hand is a temperature, and tells no images apart.
      constant = np.full_like(variance, 3.0)
      np.testing.assert_allclose(
          failure.probit_softmax(mean, constant),
          failure.max_softmax(mean / np.sqrt(1 + 3 * np.pi / 8)), rtol=1e-9)
      groups = np.arange(len(mean)) % 2
      self.assertEqual(failure.detection(
          failure.negative_variance(mean, constant), groups).auroc, 0.5)


class ScoreTest(parameterized.TestCase):

  def _logits(self, n=60, k=5, scale=3.0):
    return scale * np.random.default_rng(0).normal(size=(n, k))

  def test_scores_of_one_order(self):
    with jax.enable_x64(True):
      logits = self._logits()
      probs = special.softmax(logits, axis=-1)
      top = probs.max(-1)
      same = {
          "probability": (failure.max_softmax(logits), top),
          "doctor_beta": (failure.max_softmax(logits), -(1 - top) / top),
          "mcm": (failure.max_softmax(logits), failure.max_concept_matching(
              logits / 100, temperature=1 / 100)),
          "doctor_alpha": (failure.gini(logits), -(
              1 - np.sum(probs**2, -1)) / np.sum(probs**2, -1))}
      for name, (ours, theirs) in same.items():
        with self.subTest(name):
          np.testing.assert_array_equal(np.argsort(ours), np.argsort(theirs))
      self.assertFalse(np.array_equal(
          np.argsort(failure.margin(logits)),
          np.argsort(failure.logit_margin(logits))))

  @parameterized.named_parameters(*_OF_LOGITS.items())
  def test_a_constant_for_all_classes(self, score):
    with jax.enable_x64(True):
      logits = self._logits(scale=0.2)
      shift = {failure.max_logit: 1000, failure.energy: 1000}.get(score, 0)
      if score is _OF_LOGITS["mcm"]:
        shifted, logits = 100 * (logits - 0.001), 100 * logits
        logits, shifted = (np.clip(x, -90, 90) for x in (logits, shifted))
      else:
        shifted = logits + 1000
      np.testing.assert_allclose(
          score(shifted), score(logits) + shift, rtol=0, atol=1e-3)

  @parameterized.named_parameters(*_OF_LOGITS.items())
  def test_minus_infinity_is_a_class_that_is_not_there(self, score):
    logits = self._logits()
    out = logits.copy()
    out[:, [1, 3]] = -np.inf
    found = score(out)
    self.assertTrue(np.isfinite(found).all())
    np.testing.assert_allclose(
        found, score(failure.dropped(logits, [1, 3])), rtol=2e-5, atol=1e-6)

  def test_dropping_texts_and_logits(self):
    texts = np.random.default_rng(1).normal(size=(5, 4))
    images = np.random.default_rng(2).normal(size=(7, 4))
    np.testing.assert_allclose(
        failure.dropped(images @ texts.T, [0, 2]),
        images @ np.delete(texts, [0, 2], 0).T, rtol=1e-5)

  def test_order_of_single_precision_at_a_high_scale(self):
    cosines = np.random.default_rng(3).uniform(0.1, 0.3, size=(300, 10))
    cosines = cosines.astype(np.float32)
    found = failure.max_softmax(1000 * cosines)
    saturated = special.softmax(1000 * cosines, axis=-1).max(-1)
    with jax.enable_x64(True):
      exact = failure.max_softmax(1000 * cosines.astype(float))
    self.assertGreater(np.sum(saturated == 1), 10)  # all of them ties
    order = np.argsort(exact)
    self.assertTrue(np.all(np.diff(np.asarray(found)[order]) > -1e-3))
    self.assertLen(np.unique(found), 300)

  def test_ties_go_to_the_first_class(self):
    found = failure.negative_variance(
        np.array([[1., 1., 0.]]), np.array([[2., 3., 4.]]))
    np.testing.assert_array_equal(found, [-2])
    np.testing.assert_allclose(
        failure.max_softmax(np.zeros((1, 4))), -np.log(3), rtol=1e-6)

  def test_refuses(self):
    with self.assertRaisesRegex(ValueError, "divide logits by the logit scale"):
      failure.max_concept_matching(np.array([[30., 20.]]))
    for score in (failure.energy, failure.max_concept_matching):
      with self.assertRaisesRegex(ValueError, "temperature must be positive"):
        score(np.zeros((1, 2)), temperature=0.0)
    for wrong in ([5], [-1], [0, 1, 2]):
      with self.assertRaisesRegex(ValueError, "positions of 3 classes"):
        failure.dropped(np.zeros((1, 3)), wrong)
    with self.assertRaisesRegex(ValueError, "but got a number"):
      failure.max_logit(3.0)


class MeasuresTest(parameterized.TestCase):

  def _data(self, n=80):
    generator = np.random.default_rng(4)
    correct = generator.random(n) < 0.7
    return generator.normal(correct, 1.5), correct

  @pytest.mark.slow
  def test_both_sides(self):
    scores, correct = self._data()
    with jax.enable_x64(True):
      found = failure.failure_prediction(scores, correct)
      negated = failure.failure_prediction(-scores, correct)
      turned = failure.failure_prediction(-scores, ~correct)
    self.assertAlmostEqual(float(negated.auroc), 1 - float(found.auroc), 12)
    self.assertAlmostEqual(float(turned.auroc), float(found.auroc), 12)
    for one, other in (("fpr95_success", "fpr95_error"),
                       ("aupr_success", "aupr_error")):
      self.assertEqual(getattr(turned, one), getattr(found, other))
      self.assertEqual(getattr(turned, other), getattr(found, one))
    self.assertNotAlmostEqual(
        float(found.fpr95_success), float(found.fpr95_error), 3)

  def test_a_score_that_tells_nothing(self):
    correct = np.arange(10) < 7
    found = failure.failure_prediction(np.ones(10), correct)
    np.testing.assert_allclose(
        found, [.5, .7, .3, 1, 1, .3, found.e_aurc, .15], rtol=1e-6)
    np.testing.assert_allclose(
        failure.detection(np.ones(10), correct), [.5, .7, .3, 1, 1], rtol=1e-6)

  def test_only_the_order_matters(self):
    scores, correct = self._data()
    for measure in (failure.failure_prediction, failure.detection):
      with jax.enable_x64(True):
        np.testing.assert_allclose(
            measure(scores / (1 + np.abs(scores)), correct),
            measure(scores, correct), rtol=1e-12)

  def test_one_group_is_missing(self):
    found = failure.failure_prediction(np.arange(3.), np.ones(3))
    self.assertTrue(np.isnan(found.auroc))
    self.assertTrue(np.isnan(found.aupr_error))
    self.assertEqual(found.aurc, 0)
    self.assertEqual(found.augrc, 0)


class DensitiesTest(absltest.TestCase):

  def _data(self):
    generator = np.random.default_rng(5)
    labels = np.arange(60) % 3
    return generator.normal(size=(60, 8)) + labels[:, None], labels

  def test_order_of_the_classes(self):
    features, labels = self._data()
    with jax.enable_x64(True):
      found = densities.log_densities(
          densities.fit(features, labels, num_components=4), features)
      turned = densities.log_densities(
          densities.fit(features, 2 - labels, num_components=4), features)
    found, turned = map(np.asarray, (found, turned))
    np.testing.assert_allclose(turned[:, ::-1], found, rtol=1e-9)
    self.assertGreater(np.mean(found.argmax(-1) == labels), 0.8)

  def test_refuses_what_would_only_remember(self):
    features, labels = self._data()
    for components in (20, 9):
      with self.assertRaisesRegex(ValueError, "has 20, and at most the 8"):
        densities.fit(features, labels, num_components=components)
    with self.assertRaisesRegex(ValueError, "smallest has 0"):
      densities.fit(features, 2 * labels, num_components=2)
    with self.assertRaisesRegex(ValueError, "one label each"):
      densities.fit(features, labels[1:])


if __name__ == "__main__":
  absltest.main()
