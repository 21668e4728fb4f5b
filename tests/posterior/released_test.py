import json
import os
import pathlib
import sys
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pytest

from jaxcal.posterior import released

_PRIOR = {"lambda_img": 2.0, "n_img": 1.0, "lambda_txt": 3, "n_txt": 10.0}
_WIDTHS = {"A_img": 4, "B_img": 2, "A_txt": 3, "B_txt": 2}


class ExecutesOnUnpickling:
  """Makes a folder where it is unpickled."""

  def __init__(self, path):
    self._path = path

  def __reduce__(self):
    return os.mkdir, (self._path,)


@pytest.mark.needs("torch")
class ReadFolderTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir())
    for name, width in _WIDTHS.items():
      self._save(name, np.eye(width, dtype=np.float32))
    self._save_prior(_PRIOR)

  def test_sides_and_symmetry(self):
    a = np.array([[2.0, 1.0], [0.0, 4.0]], np.float32)
    self._save("A_txt", a)
    self._save("B_txt", np.diag([5.0, 6.0]))  # double precision
    got = released.read_folder(self.folder, num_pairs=7)
    np.testing.assert_array_equal(got.text.a, [[2, 0.5], [0.5, 4]])
    np.testing.assert_array_equal(got.text.b, [[5, 0], [0, 6]])
    self.assertEqual(got.text.b.dtype, np.float32)
    np.testing.assert_array_equal(got.image.a, np.eye(4))
    self.assertEqual(got.text.num_pairs, 7)
    self.assertEqual(got.asymmetry, {
        "A_img_analytic.pt": 0, "B_img_analytic.pt": 0,
        "A_txt_analytic.pt": 0.25, "B_txt_analytic.pt": 0})
    self.assertEqual(got.prior, _PRIOR)

  def test_code_in_a_file_is_not_run(self):
    import torch
    made = self.folder / "made by the file"
    path = self.folder / "B_img_analytic.pt"
    torch.save(ExecutesOnUnpickling(str(made)), path)
    with self.assertRaisesRegex(ValueError, "B_img.*nothing .* was executed"):
      released.read_folder(self.folder)
    self.assertFalse(made.exists())
    # The same file does harm where it is trusted.
    torch.load(path, weights_only=False)
    self.assertTrue(made.exists())

  def test_missing_files(self):
    for name in ("prior_precision_analytic.json", "A_txt_analytic.pt"):
      (self.folder / name).unlink()
      with self.assertRaisesRegex(FileNotFoundError, f"no .*{name}; .*B_img"):
        released.read_folder(self.folder)

  def test_without_torch(self):
    with mock.patch.dict(sys.modules, {"torch": None}):
      with self.assertRaisesRegex(ImportError, r"install 'jaxcal\[oracle\]'"):
        released.read_folder(self.folder)

  @parameterized.named_parameters(
      ("not_square", np.ones((2, 3), np.float32), r"square .*\(2, 3\)"),
      ("vector", np.ones(3, np.float32), r"square .*\(3,\)"),
      ("integers", np.eye(2, dtype=int), "floats, .*int64"),
      ("not_a_number", np.full((2, 2), np.nan), "not finite"),
      ("other_width", np.eye(3), "in 2 dimensions .*B_img.* 3 .*B_txt"))
  def test_strange_matrices(self, matrix, message):
    self._save("B_txt", matrix)
    with self.assertRaisesRegex(ValueError, f"(?s){message}"):
      released.read_folder(self.folder)

  def test_strange_files(self):
    import torch
    path = self.folder / "A_img_analytic.pt"
    torch.save({"A": torch.eye(2)}, path)
    with self.assertRaisesRegex(ValueError, "A_img.* one tensor.* holds dict"):
      released.read_folder(self.folder)
    for content in (b"", b"PK\x03\x04 cut"):
      path.write_bytes(content)
      with self.assertRaisesRegex(ValueError, "A_img.* damaged"):
        released.read_folder(self.folder)

  @parameterized.parameters(
      ({**_PRIOR, "n_txt": 0}, "'n_txt', but has 0"),
      ({**_PRIOR, "lambda_img": "2"}, "'lambda_img', but has '2'"),
      ({"lambda_img": 2.0}, "'n_img', but has None"),
      ([2.0], "'lambda_img', but has None"))
  def test_strange_priors(self, prior, message):
    self._save_prior(prior)
    with self.assertRaisesRegex(ValueError, message):
      released.read_folder(self.folder)

  def test_prior_that_is_no_json(self):
    (self.folder / "prior_precision_analytic.json").write_text("{")
    with self.assertRaisesRegex(ValueError, "prior.* is damaged .no JSON"):
      released.read_folder(self.folder)

  def _save(self, name, matrix):
    import torch
    torch.save(torch.tensor(matrix), self.folder / f"{name}_analytic.pt")

  def _save_prior(self, prior):
    (self.folder / "prior_precision_analytic.json").write_text(
        json.dumps(prior))


if __name__ == "__main__":
  absltest.main()
