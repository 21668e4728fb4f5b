"""What is said for a process that can no longer speak."""

import contextlib
import json
import os
import subprocess
import sys

from absl.testing import absltest

from jaxcal import last_words
from jaxcal.storage import process

_KEPT = ("What was computed is kept; start all processes with the same "
         "commands again, and they go on from there.")


def _ended():
  """A process that was there and is gone."""
  other = subprocess.Popen([sys.executable, "-c", "input()"],
                           stdin=subprocess.PIPE)
  found = process.Process(process.current().machine, other.pid, 0)
  other.communicate(b"\n")
  return found


@contextlib.contextmanager
def _ending():
  """A process that ends in a moment."""
  with subprocess.Popen(
      [sys.executable, "-c", "import time; time.sleep(.3)"]) as other:
    yield process.Process(process.current().machine, other.pid, 0)


class WordsTest(absltest.TestCase):

  def test_who_is_gone_what_is_kept_and_what_to_do(self):
    told = last_words.Told(1, [[]] * 4, lost="UNKNOWN: Gloo failed")
    self.assertEqual(
        last_words.words(told, [0]),
        "process 1 of 4 ends here, as process 0 is gone (UNKNOWN: Gloo "
        f"failed): it says why, or was killed. {_KEPT}")

  def test_where_it_cannot_be_seen_who_is_gone(self):
    told = last_words.Told(0, [[]] * 2)
    self.assertIn("which JAX names above", last_words.words(told, []))
    self.assertIn("as another one is gone (UNAVAILABLE)", last_words.words(
        told._replace(lost="UNAVAILABLE"), []))

  def test_processes_that_have_not_met(self):
    self.assertRegex(
        last_words.words(last_words.Told(seconds=300), []),
        "have not met: within 300 s .* --process_id of its own. Nothing was")


class GoneTest(absltest.TestCase):

  def test_others_of_this_machine_that_have_ended(self):
    here, there = process.current(), process.Process("elsewhere", 1, 1)
    told = last_words.Told(0, [_ended(), here, there, _ended()])
    self.assertEqual(last_words.gone(told), [3])

  def test_the_first_one_takes_all_others_with_it(self):
    told = last_words.Told(1, [_ended(), process.current(), _ended()])
    self.assertEqual(last_words.gone(told), [0])

  def test_the_first_one_is_gone_a_moment_later_than_its_connections(self):
    with _ending() as first:
      told = last_words.Told(2, [first, _ended(), process.current()])
      self.assertEqual(last_words.gone(told), [1])
      self.assertEqual(last_words._gone_at_last(told), [0])

  def test_another_one_is_gone_a_moment_later_than_its_connections(self):
    for number in (0, 1):
      with _ending() as last:
        told = last_words.Told(number, lost="Connection closed", everyone=[
            process.current(), process.current(), last])
        self.assertEqual(last_words.gone(told), [])
        self.assertEqual(last_words._gone_at_last(told), [2])

  def test_nobody_else_is_gone(self):
    # Of the first one itself, and of one that was killed from outside.
    alone = [process.current(), process.current()]
    for number in (0, 1):
      self.assertEqual(
          last_words._gone_at_last(last_words.Told(number, alone)), [])


class MainTest(absltest.TestCase):

  def _said(self, *lines):
    done = subprocess.run(
        [sys.executable, "-m", "jaxcal.last_words"], text=True, check=True,
        input="".join(json.dumps(line) + "\n" for line in lines),
        capture_output=True, env=os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path))})
    return done.stderr

  def test_silent_where_the_process_has_said_how_it_ends(self):
    self.assertEqual(self._said({"seconds": 9}, {"done": True}), "")

  def test_speaks_where_it_could_not(self):
    meet = {"seconds": 9}
    self.assertIn("within 9 s", self._said(meet))
    met = {"number": 0, "everyone": [process.current(), _ended()]}
    self.assertIn("as process 1 is gone: it says", self._said(meet, met))
    self.assertIn("is gone (broken): it says", self._said(
        meet, met, {"lost": "broken"}))


if __name__ == "__main__":
  absltest.main()
