"""Files of weights that are no weights: refused by name, whatever is wrong."""

import copy
import json
import struct

from absl.testing import absltest
from absl.testing import parameterized
from flax import serialization
import jax.numpy as jnp
import numpy as np

from jaxcal.clip import checkpoint
from jaxcal.clip import layout
from jaxcal.clip import weights
from jaxcal.storage import damage
from tests.clip import tiny

_NAME = "text_model.final_layer_norm.bias"
_OTHER = "text_model.final_layer_norm.weight"


class WeightsTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = tiny.write(self.create_tempdir().full_path)
    self.path = self.folder / "model.safetensors"
    self.content = self.path.read_bytes()
    length, = struct.unpack("<Q", self.content[:8])
    self.header = json.loads(self.content[8:8 + length])
    self.data = self.content[8 + length:]
    self.expected = weights.expected(tiny.CONFIG)

  def _read(self, path):
    return weights.checked(
        weights.read(path, layout.from_torch_names), self.expected,
        jnp.float32, path)

  def _refuses(self, content, message="is damaged", path=None):
    path = path or self.path
    path.write_bytes(content)
    with self.assertRaisesRegex(
        damage.DamagedFile, f"{path.name} .*{message}.*; "):
      self._read(path)

  def _packed(self, header):
    content = header if isinstance(header, bytes) else json.dumps(
        header).encode()
    return struct.pack("<Q", len(content)) + content + self.data

  @parameterized.parameters(
      (b"", "it is empty"),
      (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n",
       "pointer of Git LFS"),
      (b"<!DOCTYPE html><title>Not found</title>", "a web page"),
      (b"\x00garbage", ""))
  def test_what_lies_in_the_place_of_weights(self, content, message):
    self._refuses(content, message)
    self._refuses(content, message, self.folder / "flax_model.msgpack")

  @parameterized.parameters(4, 8, 300, 3000, -1)
  def test_cut_off(self, end):
    self._refuses(self.content[:end])

  @parameterized.parameters(
      b"[" * 100_000, b'{"a":' * 100_000, b"\xff" * 20, b"[1]", b"7", b"null",
      b'{"a": 5}', b"{")
  def test_headers_that_are_none(self, header):
    self._refuses(self._packed(header))

  @parameterized.parameters(2**63, 2**40, 10**8 + 1)
  def test_a_huge_header(self, length):
    self._refuses(struct.pack("<Q", length) + self.content[8:])

  @parameterized.parameters(
      ("dtype", "X7"), ("dtype", 5), ("dtype", "F64"), ("dtype", "U8"),
      ("shape", [17]), ("shape", [-16]), ("shape", [2**63, 2]),
      ("shape", "16"), ("shape", None), ("data_offsets", [1, 0]),
      ("data_offsets", [0, 10**12]), ("data_offsets", [0, 2**64]),
      ("data_offsets", ["a"]), ("data_offsets", None))
  def test_entries_that_do_not_fit(self, key, value):
    header = copy.deepcopy(self.header)
    header[_NAME][key] = value
    self._refuses(self._packed(header))

  def test_tensors_that_overlap(self):
    header = copy.deepcopy(self.header)
    header[_NAME]["data_offsets"] = header[_OTHER]["data_offsets"]
    self._refuses(self._packed(header))

  def test_a_name_that_is_a_folder_and_a_tensor(self):
    header = {name.replace(_NAME, f"{_OTHER}.bias"): entry
              for name, entry in self.header.items()}
    self._refuses(self._packed(header), "tensors below that name")

  def test_any_byte_of_a_header(self):
    """Never anything but a ValueError, which names the file."""
    rng = np.random.default_rng(0)
    length = len(self.content) - len(self.data)
    for _ in range(400):
      content = bytearray(self.content)
      for place in rng.integers(0, length, rng.integers(1, 4)):
        content[place] = rng.integers(0, 256)
      self.path.write_bytes(content)
      try:
        self._read(self.path)
      except ValueError as error:
        self.assertIn(str(self.path), str(error))

  @parameterized.parameters(
      ([1, 2],), (7,), ({"logit_scale": "x"},), ({"logit_scale": None},),
      ({"logit_scale": [1.0]},))
  def test_msgpack_of_something_else(self, tree):
    self._refuses(serialization.msgpack_serialize(tree), "expected",
                  self.folder / "flax_model.msgpack")

  @parameterized.parameters(
      ({"weight_map": {}},), ({},), ({"weight_map": {"a": 5}},), ([],))
  def test_an_index_of_shards_that_is_none(self, index):
    path = self.folder / "model.safetensors.index.json"
    self._refuses(json.dumps(index).encode(), "", path)

  def test_a_shard_elsewhere(self):
    path = self.folder / "model.safetensors.index.json"
    tiny.write_json(path, {"weight_map": {"a": "../model.safetensors"}})
    with self.assertRaisesRegex(
        damage.DamagedFile, "index.json is damaged .*cannot be the name of a"):
      self._read(path)
    tiny.write_json(path, {"weight_map": {"a": "gone.safetensors"}})
    with self.assertRaisesRegex(
        FileNotFoundError, "no .*gone.safetensors, which .*index.json names"):
      self._read(path)

  def test_a_scale_in_a_vector_of_one(self):
    expected = checkpoint.load(self.folder)
    tensors = layout.to_torch_names(tiny.params())
    tensors["logit_scale"] = tensors["logit_scale"].reshape(1)
    tiny.write(self.folder, tensors)
    self.assertEqual(
        checkpoint.load(self.folder).fingerprint, expected.fingerprint)

  def test_a_scale_that_is_not_finite(self):
    tensors = layout.to_torch_names(tiny.params())
    tensors["logit_scale"] = np.asarray(100, np.float32)
    tiny.write(self.folder, tensors)
    with self.assertRaisesRegex(ValueError, "logit_scale: 100.* not finite"):
      checkpoint.load(self.folder)


if __name__ == "__main__":
  absltest.main()
