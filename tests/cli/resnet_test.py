"""The commands on a residual network: images, stores, shots, a posterior."""

import json
import pathlib
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pytest

from jaxcal import predictions
from jaxcal.clip import checkpoint
from jaxcal.clip import towers
from jaxcal.features import pooled
from jaxcal.posterior import files
from jaxcal.testbed import pairs as testbed_pairs
from tests.cli import command
from tests.clip import tiny

_NUM_PAIRS = 12
_TUNE = ("--config=configs/dor_base_to_new.py", "--config.data.name=shapes",
         "--config.data.limit=12", "--config.tune.num_shots=1",
         "--config.tune.num_seeds=1", "--config.tune.num_epochs=1",
         "--config.tune.num_context=4", "--config.tune.dor=without",
         "--config.metrics.num_resamples=50")
_POSTERIOR = ("--config=configs/bayesvlm.py", "--config.batch_size=4")


@pytest.mark.slow
class ResNetTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    scratch = tempfile.TemporaryDirectory()
    cls.addClassCleanup(scratch.cleanup)
    cls.model = tiny.write_resnet(scratch.name)

  def _folder(self, name):
    return pathlib.Path(self.create_tempdir().full_path, name)

  def _here(self, *arguments):
    return command.here(*arguments, f"--config.model.name={self.model}")

  def _runs(self, *arguments):
    status, printed, error = self._here(*arguments)
    self.assertEqual(status, 0, error)
    return printed

  def test_evaluation_of_images_is_that_of_their_store(self):
    store = self._folder("store")
    self._runs("features", *command.small("features"), f"--store={store}",
               "--dtype=float32")
    found = []
    for extra in ((), (f"--config.data.store={store}",)):
      output = self._folder("run")
      self._runs("evaluate", *command.SMALL, "--config.method.name=tda,soc",
                 *extra, f"--output={output}")
      found.append([predictions.load(output / "predictions" / "digits" / name)
                    for name in ("tda", "soc")])
    for streamed, stored in zip(*found):
      np.testing.assert_array_equal(streamed.logits, stored.logits)
      self.assertEqual(streamed.logits.shape, (6, 10))

  def test_posterior(self):
    """It is over what comes before the projection, whose bias sees a one."""
    folder, output = self._folder("posterior"), self._folder("run")
    where = f"--config.posterior.folder={folder}"
    printed = self._runs("posterior", "fit", *_POSTERIOR, where,
                         f"--num_pairs={_NUM_PAIRS}")
    self.assertRegex(printed, r"\| image +\| 129 +\| 12 +\| 12 ")
    self.assertRegex(printed, r"\| text +\| 16 +\| 12 +\| 12 ")
    model = checkpoint.load(self.model)
    pairs = testbed_pairs.load(_NUM_PAIRS)
    seen = np.concatenate([
        pooled.rows_of(batch, len(positions)).activations
        for positions, batch in pooled.batches(
            model, pairs, np.arange(_NUM_PAIRS), batch_size=4)])
    with_one = np.pad(seen, ((0, 0), (0, 1)), constant_values=1)
    found = files.read(folder)
    products = with_one.T.astype(np.float64) @ with_one
    a = np.asarray(found.factors["image"].a, np.float64)
    np.testing.assert_allclose(a / a[-1, -1], products / products[-1, -1],
                               rtol=1e-4, atol=1e-5)
    projection = towers.image_projection(model.config, model.params)
    self.assertAlmostEqual(
        found.manifest["weight_norm2"]["image"],
        float(np.square(projection.kernel).sum() +
              np.square(projection.bias).sum()), places=3)
    self._runs("evaluate", *_POSTERIOR, where, "--config.data.name=digits",
               "--config.data.limit=4", "--config.temperature.limit=4",
               "--config.metrics.num_resamples=50", f"--output={output}")
    zero_shot, full = (
        predictions.load(output / "predictions" / "digits" / name)
        for name in ("zero_shot", "zero_shot+full"))
    self.assertFalse(np.array_equal(zero_shot.logits, full.logits))
    output = self._folder("chosen")
    self._runs(
        "posterior", "select", *_POSTERIOR, where, "--config.data.name=digits",
        "--config.data.limit=4", "--config.metrics.num_resamples=50",
        "--strategies=epig_online", "--budgets=2", "--seeds=1",
        "--pool_limit=8", "--epochs=1", "--samples=4", f"--output={output}")
    chosen, = json.loads(
        (output / "selected-digits.json").read_text())["epig_online"]
    self.assertLen(set(chosen), 2)

  def test_few_shots(self):
    output = self._folder("run")
    self._runs("tune", *_TUNE, "--config.tune.name=coop,clip_adapter",
               f"--output={output}")
    rows = [json.loads(line) for line in
            (output / "results.jsonl").read_text().splitlines()]
    self.assertContainsSubset(
        {"zero_shot", "coop", "clip_adapter"}, {row["method"] for row in rows})

  @parameterized.parameters("maple", "promptsrc")
  def test_prompts_of_images_are_refused_before_the_run(self, method):
    output = self._folder("run")
    status, _, error = self._here(
        "tune", *_TUNE, f"--config.tune.name=coop,{method}",
        f"--output={output}")
    self.assertEqual(status, 2)
    self.assertRegex(error, f"jaxcal: {method} learns prompts of images.*"
                     f"{self.model}.*choose from: coop, ")
    self.assertFalse(output.exists())

  def test_blocks_of_a_transformer_are_refused_before_the_run(self):
    output = self._folder("run")
    status, _, error = self._here(
        "evaluate", *command.SMALL, "--config.method.name=zero_shot,ttl",
        f"--output={output}")
    self.assertEqual(status, 2)
    self.assertRegex(error, "jaxcal: ttl: .* this model is a residual network")
    self.assertFalse(output.exists())

  def test_diagnosis(self):
    output = self._folder("run")
    self.assertIn("| c_tpt ", self._runs(
        "diagnose", *command.small("diagnose"), f"--output={output}"))


if __name__ == "__main__":
  absltest.main()
