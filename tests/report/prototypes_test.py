"""Similarities of classes, held against a loop over pairs."""

import itertools

from absl.testing import absltest
import numpy as np

from jaxcal.predictions import Predictions
from jaxcal.report import figures
from jaxcal.report import prototypes


def _unit(rng, k, d=5):
  features = rng.normal(size=(k, d)) + 1
  return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(
      np.float32)


class PrototypesTest(absltest.TestCase):

  def _predictions(self, **evidence):
    return Predictions(np.zeros((2, 4), np.float32), None, ("a", "b"),
                       tuple("wxyz"), evidence=evidence)

  def test_every_pair_once(self):
    rng = np.random.default_rng(0)
    before, after = _unit(rng, 4), _unit(rng, 4)
    found = prototypes.similarities(self._predictions(
        zero_shot_text_features=before, text_features=after))
    for features, counts in zip((before, after), found):
      wanted = np.zeros(200, int)
      for one, other in itertools.combinations(features.astype(float), 2):
        wanted[int(np.floor((one @ other + 1) / 0.01))] += 1
      np.testing.assert_array_equal(counts, wanted)
      self.assertEqual(counts.sum(), 6)

  def test_one_class_name_twice_is_within_the_range(self):
    rng = np.random.default_rng(0)
    same = np.repeat(_unit(rng, 1), 4, axis=0)
    found = prototypes.similarities(self._predictions(
        zero_shot_text_features=same, text_features=_unit(rng, 4)))
    self.assertEqual(found.before[-1], 6)

  def test_nothing_to_compare(self):
    features = _unit(np.random.default_rng(0), 4)
    self.assertIsNone(prototypes.similarities(self._predictions()))
    self.assertIsNone(prototypes.similarities(self._predictions(
        zero_shot_text_features=features)))
    self.assertIsNone(prototypes.similarities(self._predictions(
        zero_shot_text_features=features, text_features=features.copy())))

  def test_figure_shows_where_pairs_are(self):
    counts = np.zeros((2, 200), int)
    counts[0, 150], counts[1, 160:163] = 7, (1, 2, 1)
    figure = figures.prototype_similarities(prototypes.Similarities(*counts))
    np.testing.assert_allclose(figure.axes[0].get_xlim(), (0.5, 0.63))
    before, after = (patch.get_data().values
                     for patch in figure.axes[0].patches)
    np.testing.assert_array_equal(before, counts[0])
    np.testing.assert_array_equal(after, counts[1])


if __name__ == "__main__":
  absltest.main()
