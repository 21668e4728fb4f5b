"""Published measures against loops that follow the released programs."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np
import pytest

from jaxcal.metrics import presets


def _data(n=200, k=4):
  generator = np.random.default_rng(0)
  probs = generator.dirichlet(np.full(k, 0.5), size=n)
  return probs, generator.integers(k, size=n)


def _loop(values, hits, edges, side):
  """Terms of the error, and gaps, of bins that are open on one side."""
  terms, gaps = [], []
  for low, high in zip(edges[:-1], edges[1:]):
    inside = ((values > low) & (values <= high) if side == "right" else
              (values >= low) & (values < high))
    if inside.any():
      gaps.append(abs(hits[inside].mean() - values[inside].mean()))
      terms.append(gaps[-1] * inside.mean())
  return terms, gaps


class PresetsTest(parameterized.TestCase):

  def _found(self, paper, name, *arrays):
    with jax.enable_x64(True):
      return np.asarray(presets.PRESETS[paper][name](*arrays))

  @parameterized.parameters(
      ("C-TPT, O-TPT, A-TPT", 20, "right"), ("FPP", 20, "right"),
      ("DAC, DOR, TCPT", 10, "left"), ("CLIPCalib", 15, "right"),
      ("BayesVLM", 20, "left"), ("Guo et al. 2017", 15, "right"))
  def test_expected_error(self, paper, num_bins, side):
    probs, labels = _data()
    seen = probs.max(-1), probs.argmax(-1) == labels
    terms, _ = _loop(*seen, np.arange(num_bins + 1) / num_bins, side)
    np.testing.assert_allclose(
        self._found(paper, "ECE", *seen), sum(terms), rtol=1e-10)

  def test_one_name_for_two_measures(self):
    probs, labels = _data()
    seen = probs.max(-1), probs.argmax(-1) == labels
    terms, _ = _loop(*seen, np.arange(11) / 10, "left")
    _, gaps = _loop(*seen, np.arange(21) / 20, "right")
    np.testing.assert_allclose(
        self._found("DAC, DOR, TCPT", "MCE", *seen), max(terms), rtol=1e-10)
    np.testing.assert_allclose(
        self._found("FPP", "MCE", *seen), max(gaps), rtol=1e-10)

  def test_errors_of_classes(self):
    probs, labels = _data()
    for paper, name, num_bins in (("FPP", "SCE", 20),
                                  ("CLIPCalib", "class-wise ECE", 15)):
      terms = [sum(_loop(probs[:, k], labels == k,
                         np.arange(num_bins + 1) / num_bins, "right")[0])
               for k in range(4)]
      np.testing.assert_allclose(
          self._found(paper, name, probs, labels), np.mean(terms), rtol=1e-10)

  @pytest.mark.slow
  def test_bins_of_equal_mass(self):
    probs, labels = _data()
    values, hits = probs.max(-1), probs.argmax(-1) == labels
    ordered = np.sort(values)
    edges = {
        "FPP": ("AECE", "right", ordered[
            np.round(np.linspace(0, 1, 21) * 199).astype(int)]),
        "DAC, DOR, TCPT": ("ACE", "left", np.percentile(
            values, np.linspace(0, 100, 11))),
        "CLIPCalib": ("adaptive ECE", "right", np.interp(
            np.linspace(0, 200, 16), np.arange(200), ordered))}
    for paper, (name, side, of_paper) in edges.items():
      if paper == "FPP":
        of_paper[0] = -1  # the first bin has both edges
      elif side == "left":
        of_paper[-1] = 2  # and here the last one
      np.testing.assert_allclose(
          self._found(paper, name, values, hits),
          sum(_loop(values, hits, of_paper, side)[0]), rtol=1e-10)

  def test_clamped_likelihood(self):
    found = self._found("BayesVLM", "NLPD", np.array([[0., -np.inf]]),
                        np.array([1]))
    np.testing.assert_allclose(found, [15.942385], rtol=1e-7)

  def test_the_rest_runs(self):
    probs, labels = _data()
    seen = probs.max(-1), probs.argmax(-1) == labels
    self.assertBetween(
        self._found("DAC, DOR, TCPT", "PIECE", *seen, np.arange(200)),
        self._found("DAC, DOR, TCPT", "ECE", *seen), 1)
    self.assertBetween(
        self._found("FPP", "AURC", 1 - seen[1], seen[0]), 0.1, 0.9)


if __name__ == "__main__":
  absltest.main()
