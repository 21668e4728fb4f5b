"""`jaxcal evaluate` as a user runs it: in a process of its own."""

import json
import os
import pathlib
import subprocess
import sys

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from PIL import Image

from jaxcal import predictions

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_SMALL = ("--config.data.limit=6", "--config.views.number=8",
          "--config.method.selection_fraction=0.25",
          "--config.metrics.num_resamples=50", "--config.batch_size=4")


def _run(*arguments):
  """Exit status, standard output and standard error of a command line."""
  code = "import sys; from jaxcal.cli import main; sys.exit(main.run())"
  environment = {key: value for key, value in os.environ.items()
                 if key != "XLA_FLAGS"}  # one device, as a user has
  done = subprocess.run(
      [sys.executable, "-c", code, *arguments], cwd=_ROOT, check=False,
      capture_output=True, text=True, env=environment)
  return done.returncode, done.stdout, done.stderr


def _evaluate(*arguments):
  return _run("evaluate", "--config=configs/quickstart.py", *arguments)


class EvaluateTest(parameterized.TestCase):

  def _folder(self, name):
    return pathlib.Path(self.create_tempdir().full_path, name)

  def test_from_images_to_report_twice(self):
    arguments = (*_SMALL, "--config.data.name=digits",
                 "--config.method.name=tpt,soc",
                 "--config.method.weight=3")
    output = self._folder("run")
    status, printed, error = _evaluate(*arguments, f"--output={output}")
    self.assertEqual(status, 0, error)
    rows = [json.loads(line)
            for line in (output / "results.jsonl").read_text().splitlines()]
    self.assertEqual([row["method"] for row in rows], ["tpt", "soc"])
    answers = predictions.load(output / "predictions" / "digits" / "soc")
    correct = answers.logits.argmax(-1) == answers.labels
    self.assertAlmostEqual(rows[1]["accuracy"], correct.mean())
    self.assertIn(f"{100 * correct.mean():.1f} [", printed)
    self.assertEqual(answers.settings["config.method.weight"], 3)
    self.assertIn("provenance.source", answers.settings)
    page = (output / "report.html").read_text()
    self.assertEqual(page.count("<svg"), 1)
    self.assertNotIn("src=", page)
    self.assertFalse((output / "predictions" / "digits" / "parts").exists())
    # Again elsewhere: the same numbers. Again here: nothing is computed.
    other = self._folder("other")
    status, again, error = _evaluate(*arguments, f"--output={other}")
    self.assertEqual(status, 0, error)
    self.assertEqual(printed.replace(str(output), ""),
                     again.replace(str(other), ""))
    before = (output / "predictions" / "digits" / "soc.npz").stat().st_mtime_ns
    status, _, error = _evaluate(*arguments, f"--output={output}")
    self.assertEqual(status, 0, error)
    self.assertEqual(
        (output / "predictions" / "digits" / "soc.npz").stat().st_mtime_ns,
        before)
    # Another experiment does not mix into the folder.
    status, _, error = _evaluate(
        *arguments, "--config.method.weight=4", f"--output={output}")
    self.assertEqual(status, 2)
    self.assertIn("config.method.weight was 3.0, is 4.0", error)

  def test_folder_of_images(self):
    root = self._folder("my_pets")
    rng = np.random.default_rng(0)
    for name in ("cat", "hot_dog"):
      (root / name).mkdir(parents=True)
      for number in range(2):
        pixels = rng.integers(0, 256, (40, 60, 3), np.uint8)
        Image.fromarray(pixels).save(root / name / f"{number}.png")
    output = self._folder("run")
    status, printed, error = _evaluate(
        *_SMALL, f"--config.data.name={root}",
        "--config.method.name=zero_shot", f"--output={output}")
    self.assertEqual(status, 0, error)
    self.assertIn("my_pets", printed)
    answers = predictions.load(output / "predictions" / "my_pets" / "zero_shot")
    self.assertEqual(answers.class_names, ("cat", "hot dog"))
    self.assertEqual(answers.ids[0], "cat/0.png")

  @parameterized.parameters(
      (("--config.method.name=otpt",), "unknown method 'otpt'; choose from"),
      (("--config.data.name=nowhere",), "unknown image set 'nowhere'"),
      (("--config.method.wight=3",), "wight"),
      (("--config.batch_size=abc",), "invalid literal for int.*abc"),
      (("--config.views.number=8",), "keep one of 8 views"),
      (("--config.method.name=tpt", "--config.method.delta=0.3"),
       "none of the methods tpt has a delta"))
  def test_errors_come_before_the_work(self, arguments, message):
    status, printed, error = _evaluate(*arguments)
    self.assertEqual(status, 2)
    self.assertEqual(printed, "")
    self.assertRegex(error, message)
    self.assertNotIn("Traceback", error)

  def test_empty_folder_and_broken_image(self):
    root = self._folder("root")
    root.mkdir()
    status, _, error = _evaluate(f"--config.data.name={root}")
    self.assertEqual(status, 2)
    self.assertIn("no sub-folders", error)
    (root / "cat").mkdir()
    (root / "cat" / "notes.jpg").write_text("not an image")
    status, _, error = _evaluate(f"--config.data.name={root}")
    self.assertEqual(status, 2)
    self.assertIn("cat/notes.jpg", error)

  def test_help(self):
    status, printed, _ = _run("--help")
    self.assertEqual(status, 0)
    self.assertIn("jaxcal evaluate --config=", printed)
    status, printed, _ = _run("evaluate", "--help")
    self.assertEqual(status, 0)
    self.assertIn("--config.method.learning_rate=0.005", printed)
    status, _, error = _run("evalute")
    self.assertEqual(status, 2)
    self.assertIn("unknown command 'evalute'; choose from: evaluate", error)


if __name__ == "__main__":
  absltest.main()
