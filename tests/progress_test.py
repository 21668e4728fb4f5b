"""Bars that are drawn from what library functions report."""

import contextlib
import io
import re
from unittest import mock

from absl.testing import absltest
import jax

from jaxcal import progress


class ProgressTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.drawn = self.enter_context(contextlib.redirect_stderr(io.StringIO()))

  def test_one_bar_from_the_first_call_on(self):
    with progress.reported("training", "epoch") as report:
      self.assertEmpty(self.drawn.getvalue())
      report(0, 4, float("nan"))
      report(1, 4, 0.12345)
      report(4, 4)
    lines = self.drawn.getvalue().split("\r")
    self.assertRegex(lines[1], "training: .* 0/4 ")
    self.assertNotIn("loss", lines[1])
    self.assertRegex(lines[-1], "training: 100%.* 4/4 .*epoch.*, loss=0.123")

  def test_a_bar_for_each_stage(self):
    with progress.of_stages({"curvature": "block"}, name="shades: ") as report:
      report("pairs", 3, 3)
      report("curvature", 1, 2)
      report("curvature", 2, 2)
      report("pairs: files", 9, 9)  # quick work shows nothing
    pairs, curvature = self.drawn.getvalue().strip().split("\n")
    self.assertRegex(pairs, "shades: pairs: 100%.* 3/3 .*image")
    self.assertRegex(curvature, "shades: curvature: 100%.* 2/2 .*block")

  def test_parts_of_one_bar(self):
    with progress.of_parts("sweep", [10, 4], "prediction") as reports:
      first, second = reports
      first(1, 2)
      second(1, 4)  # the first one has come to its end without a word
      second(4, 4)
    lines = self.drawn.getvalue().split("\r")
    self.assertRegex(lines[-1], "sweep: 100%.* 14/14 .*prediction")
    seen = [int(found[1]) for found in (
        re.search(r"(\d+)/14", line) for line in lines) if found]
    self.assertEqual(seen, sorted(seen))

  def test_items_beside_a_bar(self):
    for _ in progress.each("measuring", ["a", "b"], "set"):
      self.assertNotIn("2/2", self.drawn.getvalue())
    self.assertRegex(self.drawn.getvalue().split("\r")[-1],
                     "measuring: 100%.* 2/2 .*set")

  def test_what_is_being_done_and_the_first_estimate_come_at_once(self):
    """Also in a log file, where a bar is drawn twice a minute."""
    with progress.reported("digits") as report:
      report(0, 8)
      report.at("compiling", 0, 8)
      report.at("image tower", 0.5, 8)
      report.at("image tower", 0.75, 8)
    lines = self.drawn.getvalue().split("\r")
    self.assertRegex(lines[2], "0/8 .*, compiling")
    self.assertRegex(lines[3], "0/8 .*, image tower")
    # Half an image is none yet, but tells how long one takes.
    self.assertRegex(lines[4], r" 6%.* 0/8 \[\S+<\d")

  def test_a_bar_does_not_go_back(self):
    with progress.reported("digits") as report:
      report.at("image tower", 5.5, 8)
      report(4, 8)
      report.at("image tower", 5, 8)
    self.assertRegex(self.drawn.getvalue().split("\r")[-1], " 5/8 ")

  def test_only_the_first_process_draws(self):
    with mock.patch.object(jax, "process_index", return_value=1):
      with progress.bar("sweep", 3) as bar:
        bar.update(3)
    self.assertEmpty(self.drawn.getvalue())


if __name__ == "__main__":
  absltest.main()
