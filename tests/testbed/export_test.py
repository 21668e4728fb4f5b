"""Export: names, the rescaled residual stream, and PyTorch's own reading."""

import json
import pathlib
import tempfile

from absl.testing import absltest
import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors

from jaxcal.clip import towers
from jaxcal.testbed import captions
from jaxcal.testbed import export
from jaxcal.testbed import tokenizer

# Whole commands, trainings or towers.
pytestmark = pytest.mark.slow

_TOWER = towers.TowerConfig(width=16, layers=2, heads=2, mlp_width=32)
_SIZE = len(tokenizer.build(captions.vocabulary())[0])
_CONFIG = towers.ClipConfig(
    text=_TOWER, vision=_TOWER, vocab_size=_SIZE, context_length=32,
    eos_token_id=_SIZE - 1, image_size=16, patch_size=8, projection=8)


def _params():
  params = towers.init(_CONFIG, jax.random.key(0))
  # Biases start at zero and norms at one, which would hide mistakes.
  leaves, tree = jax.tree.flatten(params)
  rng = np.random.default_rng(0)
  leaves = [leaf + .05 * rng.standard_normal(leaf.shape).astype(np.float32)
            for leaf in leaves]
  return jax.tree.unflatten(tree, leaves)


def _sentences():
  vocabulary, _ = tokenizer.build(captions.vocabulary())
  ids = tokenizer.encode_all(
      ["a photo of a red ring.", "a big blue star", "digit seven"], vocabulary,
      12)
  return ids, (ids == _SIZE - 1).argmax(axis=1)


class ExportTest(absltest.TestCase):

  def test_rescaling_changes_no_feature(self):
    params = _params()
    ids, ends = _sentences()
    context = ids[0, 1:5]
    config, rescaled, factor = export.set_context_rms(
        _CONFIG, params, context, rms=.002)
    before = towers.text_features(
        _CONFIG, params, towers.token_embeddings(params, ids), ends)
    vectors = towers.token_embeddings(rescaled, ids)
    after = towers.text_features(config, rescaled, vectors, ends)
    np.testing.assert_allclose(after, before, atol=2e-6)
    self.assertAlmostEqual(
        float(np.sqrt(np.mean(np.square(vectors[0, 1:5])))), .002, places=7)
    self.assertLess(factor, .2)
    # The epsilon has to follow, or features would move visibly.
    unfollowed = towers.text_features(_CONFIG, rescaled, vectors, ends)
    self.assertGreater(np.abs(unfollowed - before).max(), 1e-3)

  def test_folder(self):
    with tempfile.TemporaryDirectory() as name:
      folder = pathlib.Path(name) / "new" / "weights"
      export.write_folder(_CONFIG, _params(), folder, record={"steps": 3})
      tensors = safetensors.load_file(folder / "model.safetensors")
      record = json.loads((folder / "training.json").read_text())
    self.assertTrue(all(t.dtype == np.float16 for t in tensors.values()))
    self.assertEqual(
        tensors["vision_model.embeddings.patch_embedding.weight"].shape,
        (16, 3, 8, 8))
    self.assertEqual(tensors["text_projection.weight"].shape, (8, 16))
    self.assertEqual(record["steps"], 3)
    self.assertEqual(record["context_rms"], export.CONTEXT_RMS)

  @pytest.mark.needs("torch")
  def test_pytorch_computes_the_same(self):
    import torch
    import transformers
    params = _params()
    ids, ends = _sentences()
    pixels = np.random.default_rng(1).standard_normal((2, 16, 16, 3))
    pixels = pixels.astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
      export.write_folder(_CONFIG, params, pathlib.Path(folder), record={})
      model, report = transformers.CLIPModel.from_pretrained(
          folder, dtype=torch.float32, output_loading_info=True)
    self.assertEmpty(report["missing_keys"])
    self.assertEmpty(report["unexpected_keys"])
    with torch.no_grad():
      theirs = model(
          input_ids=torch.tensor(ids, dtype=torch.long),
          pixel_values=torch.tensor(pixels.transpose(0, 3, 1, 2)))
    texts = towers.text_features(
        _CONFIG, params, towers.token_embeddings(params, ids), ends)
    images = towers.image_features(_CONFIG, params, pixels)
    # float16 weights are good to a part in a thousand.
    np.testing.assert_allclose(theirs.text_embeds.numpy(), texts, atol=4e-3)
    np.testing.assert_allclose(theirs.image_embeds.numpy(), images, atol=4e-3)


if __name__ == "__main__":
  absltest.main()
