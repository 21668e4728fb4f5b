"""docs/recalibration.md: its table is that of the code, and its blocks run."""

import contextlib
import io
import pathlib
import re
import warnings

from absl.testing import absltest
import jax
import numpy as np

from jaxcal.recalibration import base
from jaxcal.recalibration import calibrators

_PAGE = (pathlib.Path(__file__).resolve().parents[2] /
         "docs" / "recalibration.md").read_text(encoding="utf-8")


class PageTest(absltest.TestCase):

  def test_table_is_that_of_the_code(self):
    rows = [[cell.strip() for cell in line.strip("|").split("|")]
            for line in _PAGE.splitlines() if line.startswith("| ")]
    heading, _, *rows = rows
    self.assertEqual(
        [heading[i] for i in (0, 2, 3, 4, 5)],
        ["name", "fitted to labels", "evidence", "keeps the prediction",
         "fit holds for other classes"])
    self.assertEqual([row[0] for row in rows], list(calibrators.RECALIBRATORS))
    said = {True: "yes", False: "no"}
    for name, about, labels, evidence, keeps, others, source in rows:
      one = calibrators.calibrator(name).recalibrator()
      self.assertEqual(labels, said[one.needs_labels], name)
      self.assertEqual(labels, said[one.fit is not None], name)
      self.assertEqual(tuple(re.findall(r"`(\w+)`", evidence)), one.needs, name)
      self.assertEqual(keeps, said[one.keeps_prediction], name)
      self.assertEqual(
          others, said[not one.same_classes] if one.fit else "", name)
      self.assertTrue(about and source, name)

  def test_code(self):
    names, printed = {}, io.StringIO()
    with (contextlib.redirect_stdout(printed),
          jax.numpy_rank_promotion("allow"),
          warnings.catch_warnings()):
      warnings.simplefilter("ignore", base.FitWarning)
      for block in re.findall(r"```python\n(.*?)```", _PAGE, re.DOTALL):
        exec(block, names)
    self.assertIn("| ranged", printed.getvalue())
    self.assertEqual(names["mapped"].shape, (300, 5))
    np.testing.assert_array_equal(
        names["both"].argmax(1), names["logits"][names["rest"]].argmax(1))


if __name__ == "__main__":
  absltest.main()
