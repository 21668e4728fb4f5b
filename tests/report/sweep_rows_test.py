"""Rows of a sweep: measured once, and again where anything changed."""

import pathlib
from unittest import mock

from absl.testing import absltest
import numpy as np

from jaxcal import predictions as predictions_lib
from jaxcal.report import summary
from jaxcal.report import sweeps


class RowsTest(absltest.TestCase):

  def test_a_row_is_measured_again_where_what_it_is_of_has_changed(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    predictions_lib.save(predictions_lib.Predictions(
        np.eye(4, 3, dtype=np.float32), np.array([0, 1, 2, 0]),
        tuple("abcd"), tuple("xyz"), {}, {}), folder / "tpt")
    path = folder / "results.jsonl"
    key = {"data": "digits", "setting": "tpt"}
    plain = summary.Conventions(num_resamples=5)
    measure = lambda conventions, **identity: sweeps.Rows(path).measure(
        key, folder / "tpt", {"method": "tpt"}, conventions, identity)
    measure(plain, seed=0)
    row, = sweeps.Rows(path).all
    self.assertEqual((row["method"], row["accuracy"]), ("tpt", 1.0))
    with mock.patch.object(summary, "summarise", side_effect=AssertionError):
      measure(plain, seed=0)
    for conventions, seed in ((plain, 1), (plain._replace(num_bins=5), 1)):
      with mock.patch.object(summary, "summarise", return_value={}) as again:
        measure(conventions, seed=seed)
      again.assert_called_once()
      self.assertLen(sweeps.Rows(path).all, 1)


if __name__ == "__main__":
  absltest.main()
