"""Files of checkpoints and of their tokenizers, broken in many ways."""

import functools
import json
import struct

from absl.testing import absltest
from flax import serialization
import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest
from safetensors import numpy as safetensors

from jaxcal.clip import checkpoint
from jaxcal.clip import layout
from jaxcal.clip import tokenizers
from jaxcal.testbed import shipped
from tests.clip import make_resnet_oracle
from tests.clip import tiny
from tests.faults import fuzz

_PROCESSOR = {
    "do_resize": True, "size": {"shortest_edge": 6}, "do_center_crop": True,
    "crop_size": {"height": 6, "width": 6}, "resample": 3, "do_rescale": True,
    "rescale_factor": 1 / 255, "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
_TOKENIZER = ("vocab.json", "merges.txt")
_BESIDE = ("tokenizer_config.json", "special_tokens_map.json")


@functools.cache
def _weights():
  return safetensors.save(layout.to_torch_names(tiny.params()))


@functools.cache
def _msgpack():
  return serialization.msgpack_serialize(tiny.params())


def _residual():
  model = make_resnet_oracle.MODELS["small-quickgelu"]
  return {"model_cfg": model, "preprocess_cfg": {
      "size": model["vision_cfg"]["image_size"], "mean": [0.5] * 3,
      "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}}


@functools.cache
def _shipped(name):
  return (shipped.folder() / name).read_bytes()


@st.composite
def _safetensors(draw):
  """Weights of which the header is another, or some bytes are."""
  content = _weights()
  if draw(st.booleans()):
    return draw(fuzz.damaged(content))
  length, = struct.unpack("<Q", content[:8])
  header = json.loads(content[8:8 + length])
  name = draw(st.sampled_from(sorted(header)))
  about = header[name]
  text = draw(fuzz.broken_json({name: about}))
  others = {key: value for key, value in header.items() if key != name}
  if text.startswith("{") and len(text) > 2:
    text = json.dumps(others)[:-1] + ", " + text[1:]
  header = text.encode("utf-8", "replace")
  return struct.pack("<Q", len(header)) + header + content[8 + length:]


@st.composite
def _merges(draw):
  lines = _shipped("merges.txt").decode().split("\n")
  place = draw(st.integers(0, len(lines) - 1))
  lines[place] = draw(st.sampled_from((
      "", " ", "a", "a b c", "a  b", "a b", "\u00a0 x", "#version", lines[0],
      lines[-2], "x" * 5000)))
  content = "\n".join(lines).encode()
  return draw(fuzz.damaged(content)) if draw(st.booleans()) else content


class CheckpointsTest(fuzz.FaultCase):
  num_bytes = fuzz.COMPILING_BYTES

  def setUp(self):
    super().setUp()
    for name in (*_TOKENIZER, *_BESIDE):
      (self.root / name).write_bytes(_shipped(name))
    # Words that need the packages are read before time counts.
    tokenizers.of_clip(self.root)
    for name in (*_TOKENIZER, *_BESIDE):
      (self.root / name).unlink()
    tiny.write(self.root)
    checkpoint.load(self.root)

  def _load(self, what, **files):
    """A checkpoint of which some files are others."""
    for name, content in files.items():
      path = self.root / name
      path.write_bytes(content)
    found = self.read(what, lambda: checkpoint.load(self.root),
                      *files, str(self.root))
    if found is not None:
      for leaf in layout.to_torch_names(found.params).values():
        self.assertTrue(np.isfinite(leaf).all())

  @fuzz.fewer(0.6)
  @hypothesis.given(fuzz.damaged_json(tiny.SETTINGS))
  @pytest.mark.slow
  def test_config(self, content):
    self._load("config.json", **{"config.json": content})

  @fuzz.fewer(0.6)
  @hypothesis.given(_safetensors())
  @pytest.mark.slow
  def test_safetensors(self, content):
    self._load("model.safetensors", **{"model.safetensors": content})

  @fuzz.fewer(0.6)
  @hypothesis.given(fuzz.damaged_json(_PROCESSOR))
  def test_preprocessor(self, content):
    self._load("preprocessor_config.json",
               **{"preprocessor_config.json": content})

  @fuzz.fewer(0.3)
  @hypothesis.given(fuzz.damaged_json({"image_processor": _PROCESSOR}))
  def test_processor(self, content):
    self._load("processor_config.json", **{"processor_config.json": content})

  @fuzz.fewer(0.6)
  @hypothesis.given(st.deferred(lambda: fuzz.damaged(_msgpack())))
  def test_msgpack(self, content):
    (self.root / "model.safetensors").unlink(missing_ok=True)
    self._load("flax_model.msgpack", **{"flax_model.msgpack": content})

  @fuzz.fewer(0.6)
  @hypothesis.given(fuzz.damaged_json(
      {"metadata": {"total_size": 1}, "weight_map": {
          "logit_scale": "model-1-of-1.safetensors",
          "text_projection.weight": "model-1-of-1.safetensors"}}))
  @pytest.mark.slow
  def test_shards(self, content):
    (self.root / "model.safetensors").unlink(missing_ok=True)
    (self.root / "model-1-of-1.safetensors").write_bytes(_weights())
    self._load("model.safetensors.index.json",
               **{"model.safetensors.index.json": content})

  @fuzz.fewer(0.6)
  @hypothesis.given(st.deferred(lambda: fuzz.damaged_json(_residual())))
  @pytest.mark.slow
  def test_open_clip(self, content):
    for name in ("config.json", "model.safetensors"):
      (self.root / name).unlink(missing_ok=True)
    if not (self.root / "open_clip_model.safetensors").exists():
      checkpoint.load(tiny.write_resnet(self.root))
    self._load("open_clip_config.json", **{"open_clip_config.json": content})

  @fuzz.fewer(0.3)
  @hypothesis.given(st.deferred(lambda: fuzz.damaged_json(
      json.loads(str(tiny.make_oracle.read("siglip")["config"])))))
  def test_siglip(self, content):
    tiny.write_siglip(self.root)
    self._load("config.json of a SigLIP", **{"config.json": content})


class TokenizersTest(fuzz.FaultCase):

  def setUp(self):
    super().setUp()
    self._sound()
    found = tokenizers.of_clip(self.root)
    self._whole = json.loads(found.tokenizer.backend_tokenizer.to_str())

  def _sound(self):
    for name in (*_TOKENIZER, *_BESIDE):
      (self.root / name).write_bytes(_shipped(name))

  def _load(self, what, name, content, reader=tokenizers.of_clip):
    self._sound()
    (self.root / name).write_bytes(content)

    def read():
      tokenizer = reader(self.root)
      tokenizers.check_fits(tokenizer, 10**6, self.root)
      return tokenizer

    found = self.read(what, read, name, str(self.root))
    if found is not None:
      row = found(["a photo of a cat.", "\u00e9\U0001f600 \u732b"])["input_ids"]
      self.assertLen(row, 2)

  @fuzz.fewer(0.4)
  @hypothesis.given(st.deferred(
      lambda: fuzz.damaged_json(json.loads(_shipped("vocab.json")))))
  def test_vocabulary(self, content):
    self._load("vocab.json", "vocab.json", content)

  @fuzz.fewer(0.4)
  @hypothesis.given(_merges())
  def test_merges(self, content):
    self._load("merges.txt", "merges.txt", content)

  @fuzz.fewer(0.6)
  @hypothesis.given(st.sampled_from(_BESIDE).flatmap(
      lambda name: st.tuples(st.just(name), fuzz.damaged_json(
          json.loads(_shipped(name))))))
  def test_settings(self, drawn):
    self._load("settings of a tokenizer", *drawn)

  @fuzz.fewer(0.5)
  @hypothesis.given(st.data(), st.booleans())
  def test_whole(self, data, of_siglip):
    content = data.draw(fuzz.damaged_json(self._whole))
    if of_siglip:
      self._load("tokenizer.json of a SigLIP", "tokenizer.json", content,
                 tokenizers.of_siglip)
    else:
      self._load("tokenizer.json", "tokenizer.json", content)


if __name__ == "__main__":
  absltest.main()
