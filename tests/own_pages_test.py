"""A regulariser, a recalibrator and a data set of one's own, as documented."""

import contextlib
import io
import pathlib
import re
import warnings

from absl.testing import absltest
import jax
import numpy as np
import pytest
from scipy import special

import jaxcal
from jaxcal import predictions
from jaxcal.adapt import numbers
from jaxcal.losses import dispersion
from jaxcal.losses import orthogonality
from jaxcal.recalibration import base
from tests.cli import command

_DOCS = pathlib.Path(__file__).resolve().parents[1] / "docs"


def _blocks(page):
  return re.findall(
      r"```python\n(.*?)```", (_DOCS / page).read_text("utf-8"), re.S)


class _PageTest(absltest.TestCase):
  """Runs blocks one after the other, in a folder of their own."""

  def setUp(self):
    super().setUp()
    self.enterContext(jax.numpy_rank_promotion("allow"))  # the default
    self.folder = pathlib.Path(self.create_tempdir().full_path)
    self.enterContext(contextlib.chdir(self.folder))

  def _run(self, *blocks):
    """What they define, and what they print."""
    names, printed = {}, io.StringIO()
    with contextlib.redirect_stdout(printed):
      for block in blocks:
        exec(block, names)
    return names, printed.getvalue()


class RegulariserTest(_PageTest):

  @pytest.mark.slow
  def test_beside_others(self):
    function, beside, _ = _blocks("own_regulariser.md")
    names, printed = self._run(function, beside)
    text = np.float32(np.random.default_rng(0).uniform(size=(5, 8)))
    text /= np.linalg.norm(text, axis=-1, keepdims=True)
    cosines = text @ text.T
    np.testing.assert_allclose(
        names["nearest_cosine"](text),
        np.mean([np.delete(row, i).max() for i, row in enumerate(cosines)]),
        rtol=1e-6)
    found = names["predictions"]
    moved = lambda one, other: np.abs(
        found[one].logits - found[other].logits).max()
    self.assertGreater(moved("nearest", "tpt"), 1e-3)
    for name in ("tpt", "c_tpt", "nearest"):
      self.assertIn(f"| {name} ", printed)
    np.testing.assert_allclose(
        np.median(found["nearest"].info["effective_weight"]), 2, rtol=1e-5)

  @pytest.mark.slow
  def test_in_the_command_another_function_is_another_run(self):
    function, _, config = _blocks("own_regulariser.md")
    path = self.folder / "mine.py"
    arguments = ("evaluate", *command.SMALL[1:], f"--config={path}",
                 f"--output={self.folder / 'out'}")
    path.write_text(function + config)
    status, printed, error = command.here(*arguments)
    self.assertEqual(status, 0, error)
    self.assertIn("| nearest", printed)
    found = predictions.load(
        self.folder / "out" / "predictions" / "digits" / "nearest")
    self.assertRegex(
        found.settings["config.methods"]["nearest"],
        r"^Regularised\(.*regulariser=Partial\(nearest_cosine\)\) [0-9a-f]{16}$"
    )
    # The same once more is no work; with another function it is refused.
    self.assertEqual(command.here(*arguments)[0], 0)
    path.write_text(function.replace(".mean()", ".max()") + config)
    status, _, error = command.here(*arguments)
    self.assertEqual(status, 2)
    self.assertRegex(error, "method: stored 'Regularised.*, asked 'Regul")

  def test_functions_of_jaxcal_are_told_apart_by_name(self):
    found = [numbers.identity_of(jaxcal.Regularised(regulariser=function))
             for function in (dispersion.text_dispersion,
                              orthogonality.full_orthogonality)]
    self.assertNotEqual(*(one["method"] for one in found))
    self.assertNotRegex(found[0]["method"], "0x")
    self.assertEqual(numbers.identity_of(jaxcal.Soc())["method"], "Soc")


class RecalibratorTest(_PageTest):

  @pytest.mark.slow
  def test_on_arrays_and_of_a_run(self):
    with warnings.catch_warnings():
      warnings.simplefilter("ignore", base.FitWarning)
      names, printed = self._run(*_blocks("own_recalibrator.md"))
    logits, labels = names["logits"], names["labels"]
    fit = names["Mixed"]().fit(base.Evidence(logits[:300], labels[:300]))
    share = fit.parameters["share"]
    self.assertBetween(share, 0.05, 0.5)
    mixed = (1 - share) * special.softmax(logits[300:], axis=-1) + share / 5
    np.testing.assert_allclose(
        jaxcal.recalibrate(logits[300:], (logits[:300], labels[:300]),
                           names["Mixed"]()), np.log(mixed), rtol=1e-5)
    for name in ("plain", "mixed", "temperature+mixed", "mine+mixed"):
      self.assertIn(f"| {name} ", printed)
    found, = pathlib.Path("runs/animals").glob(
        "recalibrated-mixed-*/predictions/animals/mine+mixed.npz")
    settings = predictions.load(found.with_suffix("")).settings
    self.assertEqual(settings["recalibrator"], "mixed")

  def test_what_it_rests_on_is_said(self):
    names, _ = self._run(_blocks("own_recalibrator.md")[0])
    right = np.eye(4)[[0, 1, 2, 3] * 5]
    with self.assertWarnsRegex(base.FitWarning, "mixed: no share lowers"):
      found = jaxcal.recalibrate(
          right, (30 * right, right.argmax(-1)), names["Mixed"]())
    np.testing.assert_allclose(
        special.softmax(found, -1), special.softmax(right, -1), rtol=1e-5)


class ImagesTest(_PageTest):

  @pytest.mark.slow
  def test_from_pictures_to_predictions_and_features(self):
    images, everywhere, stored = _blocks("own_images.md")
    names, printed = self._run(images, everywhere)
    self.assertIn("| mta ", printed)
    for one in names["predictions"].values():
      self.assertEqual(one.ids, names["squares"].ids)
      np.testing.assert_array_equal(one.labels, names["LABELS"])
    hits = (names["predictions"]["zero_shot"].logits.argmax(-1)
            == names["LABELS"])
    self.assertGreater(hits.mean(), 0.6)
    _, printed = self._run(images, everywhere, stored)
    self.assertIn("| tda ", printed)
    self.assertTrue(pathlib.Path("features/squares").is_dir())


if __name__ == "__main__":
  absltest.main()
