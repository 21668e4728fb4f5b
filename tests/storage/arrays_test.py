"""Arrays come back as they were, or not at all."""

import io
import pathlib
import tracemalloc
import zipfile

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from jaxcal.storage import arrays


def _example():
  rng = np.random.default_rng(0)
  return {"a/x": rng.normal(size=(5, 3)).astype(np.float32),
          "ids": np.array(["çà", "b"]), "number": np.int64(3),
          "nothing": np.zeros((0, 4), np.float16)}


class ArraysTest(parameterized.TestCase):

  def _assert_equal(self, found, expected):
    self.assertEqual(found.keys(), expected.keys())
    for name, value in expected.items():
      self.assertEqual(found[name].dtype, value.dtype)
      np.testing.assert_array_equal(found[name], value)

  @parameterized.parameters(False, True)
  def test_round_trip(self, compressed):
    packed = arrays.pack(_example(), compressed=compressed)
    self.assertEqual(packed, arrays.pack(_example(), compressed=compressed))
    self._assert_equal(arrays.unpack(packed), _example())
    path = pathlib.Path(self.create_tempdir().full_path, "x.npz")
    path.write_bytes(packed)
    self._assert_equal(arrays.unpack(path), _example())
    self.assertEqual(arrays.unpack(path, lambda name: name == "number"),
                     {"number": 3})
    with np.load(path, allow_pickle=False) as found:
      self._assert_equal(dict(found), _example())

  def test_files_of_others(self):
    file = io.BytesIO()
    np.savez(file, **_example())
    self._assert_equal(arrays.unpack(file.getvalue()), _example())

  @parameterized.parameters(False, True)
  def test_every_bit_and_every_cut(self, compressed):
    packed = arrays.pack(_example(), compressed=compressed)
    harmless = 0
    for bit in range(0, 8 * len(packed), 3):
      damaged = bytearray(packed)
      damaged[bit // 8] ^= 1 << bit % 8
      try:
        found = arrays.unpack(bytes(damaged))
      except ValueError as error:
        self.assertStartsWith(str(error), "not a whole .npz: ")
      else:
        # Such as a date in what stands before a member.
        harmless += 1
        self._assert_equal(found, _example())
    self.assertLess(harmless, len(packed))
    for length in range(0, len(packed), 7):
      with self.assertRaisesRegex(ValueError, "not a whole .npz"):
        arrays.unpack(packed[:length])

  def test_members_cannot_get_lost(self):
    packed, without = io.BytesIO(arrays.pack(_example())), io.BytesIO()
    with (zipfile.ZipFile(packed) as archive,
          zipfile.ZipFile(without, "w") as fewer):
      fewer.comment = archive.comment
      for name in archive.namelist()[1:]:
        fewer.writestr(name, archive.read(name))
    with self.assertRaisesRegex(ValueError, "directory does not have its che"):
      arrays.unpack(without.getvalue())

  @parameterized.parameters(
      "(1000000000000,)", "(4,)", "(2, 2.5)", "(-1,)", "'x'", "(" * 300)
  def test_a_header_that_lies_takes_no_memory(self, shape):
    header = (f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, "
              "}").encode()
    content = (b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") +
               header + bytes(8))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
      archive.writestr("x.npy", content)
    tracemalloc.start()
    self.addCleanup(tracemalloc.stop)
    with self.assertRaisesRegex(ValueError, "not a whole .npz: "):
      arrays.unpack(file.getvalue())
    with self.assertRaisesRegex(ValueError, "not a whole .npy: "):
      arrays.unpack_one(content)
    self.assertLess(tracemalloc.get_traced_memory()[1], 2**22)

  def test_one_array(self):
    for value in _example().values():
      file = io.BytesIO()
      np.save(file, value)
      np.testing.assert_array_equal(arrays.unpack_one(file.getvalue()), value)

  def test_another_byte_order(self):
    file = io.BytesIO()
    np.savez(file, x=np.arange(3, dtype=">f4"))
    found = arrays.unpack(file.getvalue())["x"]
    self.assertEqual(found.dtype, np.float32)
    np.testing.assert_array_equal(found, [0, 1, 2])

  def test_a_member_before_the_beginning(self):
    path = pathlib.Path(self.create_tempdir().full_path, "x.npz")
    file = io.BytesIO()
    np.savez(file, **_example())
    path.write_bytes(file.getvalue()[100:])
    with self.assertRaisesRegex(ValueError, "not a whole .npz: "):
      arrays.unpack(path)

  def test_refusals(self):
    file = io.BytesIO()
    np.savez(file, x=np.array([{}], object))
    with self.assertRaisesRegex(ValueError, "allow_pickle=False"):
      arrays.unpack(file.getvalue())
    with self.assertRaises(FileNotFoundError):
      arrays.unpack(pathlib.Path(self.create_tempdir().full_path, "none.npz"))


if __name__ == "__main__":
  absltest.main()
