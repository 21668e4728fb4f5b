"""The shipped weights: what they can do, and that others can read them."""

import functools
import json

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from PIL import Image
import pytest
from scipy import special

from jaxcal.clip import checkpoint
from jaxcal.clip import prompts
from jaxcal.testbed import export
from jaxcal.testbed import sets
from jaxcal.testbed import shipped
from jaxcal.testbed import train

_SIDE = train.MODEL.image_size


@functools.cache
def _model():
  return checkpoint.load(shipped.folder())


def _text_features(class_names):
  model = _model()
  bank = prompts.prompt_bank(
      model.tokenizer, class_names, context_length=model.config.context_length,
      eos_token_id=model.config.eos_token_id)
  return np.asarray(model.text_features(bank))


@functools.cache
def _images(name, limit):
  """Labels, and images as the model reads them."""
  part = sets.load(name, limit=limit)
  resized = [
      Image.fromarray(part.read(i)).resize(
          (_SIDE, _SIDE), Image.Resampling.BICUBIC)
      for i in range(limit)]
  return part.labels, np.stack(list(map(np.asarray, resized)))


@functools.cache
def _logits(name, limit):
  model = _model()
  labels, images = _images(name, limit)
  texts = _text_features(sets.load(name, limit=1).class_names)
  scale = np.exp(model.params["logit_scale"])
  return labels, scale * np.asarray(model.image_features(images)) @ texts.T


class WeightsTest(parameterized.TestCase):

  def test_folder_is_small(self):
    size = sum(path.stat().st_size for path in shipped.folder().iterdir())
    self.assertLess(size, 8e6)

  def test_record_tells_how_they_were_made(self):
    record = json.loads((shipped.folder() / "training.json").read_text())
    self.assertEqual(record["steps"], train.STEPS)
    self.assertEqual(record["batch_size"], train.BATCH_SIZE)
    self.assertEqual(record["pool_size"], train.POOL_SIZE)
    self.assertContainsSubset(
        ("seed", "validation_accuracy", "context_rms_factor", "versions",
         "logit_scale_learned"),
        record)

  def test_sizes_are_those_of_the_training_code(self):
    ours = export.huggingface_config(_model().config)
    theirs = export.huggingface_config(train.MODEL)
    # Rescaling the residual stream changes the text tower's epsilon.
    ours["text_config"].pop("layer_norm_eps")
    theirs["text_config"].pop("layer_norm_eps")
    self.assertEqual(ours, theirs)

  def test_context_has_the_stated_size(self):
    model = _model()
    bank = prompts.prompt_bank(
        model.tokenizer, ["circle"], eos_token_id=model.config.eos_token_id,
        context_length=model.config.context_length)
    context = prompts.initial_context(model.params, bank)
    self.assertEqual(context.shape, (4, 128))
    rms = np.sqrt(np.mean(np.square(context)))
    self.assertAlmostEqual(rms, export.CONTEXT_RMS, delta=1e-5)

  def test_useful_and_imperfect(self):
    self._check_logits("shapes")

  @parameterized.parameters(*sets.BASES[1:])
  @pytest.mark.slow
  def test_useful_and_imperfect_on_other_sets(self, name):
    self._check_logits(name)

  def _check_logits(self, name):
    labels, logits = _logits(name, 396)
    accuracy = (logits.argmax(axis=1) == labels).mean()
    self.assertBetween(accuracy, .6, .9)
    confidence = special.softmax(logits, axis=1).max(axis=1).mean()
    self.assertLess(abs(confidence - accuracy), .1)

  @parameterized.parameters(*sets.BASES)
  def test_text_features_differ(self, name):
    texts = _text_features(sets.load(name, limit=1).class_names)
    cosines = (texts @ texts.T)[~np.eye(len(texts), dtype=bool)]
    self.assertLess(cosines.mean(), .8)
    self.assertLess(cosines.max(), .99)

  @pytest.mark.slow
  def test_no_shape_at_chance(self):
    labels, logits = _logits("shapes", 396)
    hits = logits.argmax(axis=1) == labels
    for shape in range(18):
      self.assertGreater(hits[labels == shape].mean(), 3 / 18)

  @pytest.mark.needs("torch")
  def test_pytorch_computes_the_same(self):
    import torch
    import transformers
    theirs = transformers.CLIPModel.from_pretrained(
        shipped.folder(), dtype=torch.float32)
    processor = transformers.CLIPTokenizer.from_pretrained(shipped.folder())
    class_names = sets.load("shapes", limit=1).class_names
    tokens = processor([f"a photo of a {name}." for name in class_names],
                       padding=True, return_tensors="pt")
    _, images = _images("shapes", 396)
    unit = images[:36] / 255
    preprocess = _model().preprocess
    pixels = (unit - preprocess.mean) / preprocess.std
    pixels = pixels.transpose(0, 3, 1, 2).astype(np.float32)
    with torch.no_grad():
      logits = theirs(pixel_values=torch.tensor(pixels), **tokens)
    _, ours = _logits("shapes", 396)
    np.testing.assert_allclose(
        ours[:36], logits.logits_per_image.numpy(), atol=2e-4)


if __name__ == "__main__":
  absltest.main()
