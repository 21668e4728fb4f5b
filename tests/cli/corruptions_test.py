"""Corrupted images through the commands, and values that mean none."""

import json
import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pytest

from jaxcal import predictions
from jaxcal.data import corruptions
from tests.cli import command

_SMALL = ("--config.data.name=digits", "--config.data.limit=6",
          "--config.views.number=2", "--config.method.selection_fraction=0.5",
          "--config.metrics.num_resamples=20", "--config.method.name=zero_shot")
_NOISE = ("--config.data.corruption=gaussian_noise", "--config.data.severity=5")


class CorruptionsTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.create_tempdir().full_path)

  def _run(self, output, *arguments, name="evaluate"):
    return command.here(
        name, *_SMALL, f"--output={self.root / output}", *arguments)

  def _logits(self, output, setting="predictions/digits"):
    return predictions.load(self.root / output / setting / "zero_shot").logits

  @pytest.mark.slow
  def test_images_are_corrupted_and_the_run_says_so(self):
    for output, arguments in (
        ("clean", ()), ("noisy", _NOISE), ("again", _NOISE),
        ("other", (*_NOISE, "--config.data.corruption_seed=1")),
        ("mild", (_NOISE[0], "--config.data.severity=1"))):
      self.assertEqual(self._run(output, *arguments)[0], 0)
    noisy = self._logits("noisy")
    np.testing.assert_array_equal(self._logits("again"), noisy)
    for output in ("clean", "other", "mild"):
      self.assertGreater(np.abs(self._logits(output) - noisy).max(), 1e-3)
    told = json.loads((self.root / "noisy/run.json").read_text("utf-8"))
    self.assertEqual(told["config.data.corruption"], "gaussian_noise")
    self.assertEqual(told["config.data.severity"], 5)
    row, = map(json.loads, (self.root / "noisy/results.jsonl").read_text(
        "utf-8").splitlines())
    self.assertEqual(
        (row["corruption"], row["severity"]), ("gaussian_noise", 5))

  @pytest.mark.slow
  def test_a_run_does_not_go_on_with_other_corruptions(self):
    self.assertEqual(self._run("out", *_NOISE)[0], 0)
    for changed in ("--config.data.severity=2", "--config.data.corruption=fog",
                    "--config.data.corruption_seed=4"):
      status, _, error = self._run("out", *_NOISE, changed)
      self.assertEqual(status, 2)
      self.assertIn(f"{changed[9:].partition('=')[0]}: stored", error)

  @pytest.mark.slow
  def test_a_share_of_the_images(self):
    share = (*_NOISE, "--config.stream.corrupted_share=0.5")
    for output, arguments in (("clean", ()), ("noisy", _NOISE),
                              ("some", share)):
      status, printed, error = self._run(output, *arguments)
      self.assertEqual(status, 0, error)
    clean, noisy, some = map(self._logits, ("clean", "noisy", "some"))
    ids = predictions.load(
        self.root / "some/predictions/digits/zero_shot").ids
    chosen = np.array([corruptions.is_corrupted(
        one, corruptions.Corruption("gaussian_noise", 5, share=0.5))
                       for one in ids])
    self.assertLen(set(chosen), 2)
    np.testing.assert_allclose(
        some, np.where(chosen[:, None], noisy, clean), atol=1e-4)
    self.assertIn(
        f"digits: {chosen.sum()} of 6 images, chosen at random, are corrupted, "
        "the others are as they were taken (stream.corrupted_share=0.5).",
        printed)
    self.assertIn("| digits, gaussian_noise 5 on a share of 0.5 |", printed)
    status, _, error = self._run("noisy", *share)
    self.assertEqual(status, 2)
    self.assertIn("stream.corrupted_share: stored 'nothing', asked 0.5", error)
    # Stored features are of the share, too.
    small = [flag for flag in _SMALL
             if "metrics" not in flag and "method" not in flag]
    status, _, error = command.here(
        "features", *small, *share, f"--store={self.root / 'stored'}",
        "--dtype=float32")
    self.assertEqual(status, 0, error)
    store = f"--config.data.store={self.root / 'stored'}"
    self.assertEqual(self._run("from_store", *share, store)[0], 0)
    np.testing.assert_allclose(self._logits("from_store"), some, atol=1e-4)
    status, _, error = self._run("others", *_NOISE, store)
    self.assertEqual(status, 2)
    self.assertIn("corrupted_share 0.5, not 1.0", error)

  @parameterized.parameters(
      (("--config.stream.corrupted_share=0.5",), "no corruption is named"),
      ((*_NOISE, "--config.stream.corrupted_share=0"), r"in \(0, 1\]"),
      ((*_NOISE, "--config.stream.corrupted_share=1.1"), r"in \(0, 1\]"),
      (("--config.data.corruption=fog",), "severity.* is None; give both"),
      (("--config.data.severity=3",), "corruption.* is None"),
      ((*_NOISE[:1], "--config.data.severity=6"), "expected from 1 to 5"),
      (("--config.data.corruption=fogg", _NOISE[1]), "fog"),
      (("--config.data.corruption=frost", _NOISE[1]), "frost_pictures"))
  def test_what_is_no_corruption(self, arguments, message):
    status, _, error = self._run("out", *arguments)
    self.assertEqual(status, 2)
    self.assertRegex(error, message)
    self.assertFalse((self.root / "out").exists())

  @pytest.mark.slow
  def test_a_sweep_over_severities(self):
    status, _, error = self._run(
        "sweep", _NOISE[0], "--sweep=data.severity=1,5", name="sweep")
    self.assertEqual(status, 0, error)
    rows = list(map(json.loads, (self.root / "sweep/results.jsonl").read_text(
        "utf-8").splitlines()))
    self.assertEqual([row["data.severity"] for row in rows], [1, 5])

  @pytest.mark.slow
  def test_a_sweep_over_shares(self):
    status, printed, error = self._run(
        "sweep", *_NOISE, "--sweep=stream.corrupted_share=0.5,1", name="sweep")
    self.assertEqual(status, 0, error)
    rows = list(map(json.loads, (self.root / "sweep/results.jsonl").read_text(
        "utf-8").splitlines()))
    self.assertEqual(
        [row["stream.corrupted_share"] for row in rows], [0.5, 1])
    # One sentence for both would be true of neither.
    self.assertNotIn("chosen at random, are corrupted", printed)
    for output, share in (("whole", 1), ("some", 0.5)):
      self._run(output, *_NOISE, f"--config.stream.corrupted_share={share}")
      np.testing.assert_allclose(self._logits(
          "sweep", f"predictions/digits/stream.corrupted_share={share:.1f}"),
                                 self._logits(output), atol=1e-4)


if __name__ == "__main__":
  absltest.main()
