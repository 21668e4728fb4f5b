"""`jaxcal evaluate` from images to report, and what it refuses."""

import json
import pathlib
import random

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from PIL import Image
import pytest

from jaxcal import config
from jaxcal import config_methods
from jaxcal import predictions
from jaxcal import stages
from jaxcal.data import catalogue
from tests.cli import command
from tests.data import miniatures


def _evaluate(*arguments):
  return command.here("evaluate", *command.SMALL, *arguments)


class EvaluateTest(parameterized.TestCase):

  def _folder(self, name):
    return pathlib.Path(self.create_tempdir().full_path, name)

  @pytest.mark.slow
  def test_from_images_to_report_twice(self):
    arguments = ("--config.method.name=tpt,soc", "--config.method.weight=3")
    output = self._folder("run")
    # As a user runs it: in a process of its own.
    status, printed, error = command.run(
        "evaluate", *command.SMALL, *arguments, f"--output={output}")
    self.assertEqual(status, 0, error)
    rows = [json.loads(line)
            for line in (output / "results.jsonl").read_text().splitlines()]
    self.assertEqual([row["method"] for row in rows], ["tpt", "soc"])
    predicted = predictions.load(output / "predictions" / "digits" / "soc")
    correct = predicted.logits.argmax(-1) == predicted.labels
    self.assertAlmostEqual(rows[1]["accuracy"], correct.mean())
    self.assertIn(f"{100 * correct.mean():.1f} [", printed)
    self.assertEqual(predicted.settings["config.method.weight"], 3)
    self.assertIn("provenance.source", predicted.settings)
    page = (output / "report.html").read_text()
    # Accuracy against ECE, a diagram for each method, risk against coverage.
    self.assertEqual(page.count("<svg"), 2 + len(rows))
    self.assertNotRegex(page, 'src="(?!data:)')
    self.assertFalse((output / "predictions" / "digits" / "parts").exists())
    # Elsewhere, in this process: the same numbers. Again: nothing is computed.
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
    self.assertIn("method.weight: stored 3.0, asked 4.0", error)

  @parameterized.parameters(
      ((), ("tda", "dynaprompt")),
      (("--config.stream.orders=2", "--config.stream.order=sorted"),
       ("tda-order0", "tda-order1", "dynaprompt-order0", "dynaprompt-order1")))
  @pytest.mark.slow
  def test_killed_at_random_moments_and_resumed_is_the_undisturbed_run(
      self, given, along):
    """A method with a state among the others; every bit is the same."""
    arguments = ("evaluate", *command.SMALL, "--config.data.limit=40",
                 "--config.method.name=soc,zero,tda,dynaprompt", *given)
    whole, killed = self._folder("whole"), self._folder("killed")
    command.run_timed(*arguments, f"--output={whole}")  # and compiles
    _, _, took = command.run_timed(
        *arguments, f"--output={self._folder('timed')}")
    rng = random.Random(0)
    was_running = [
        command.kill_after(rng.uniform(0.4, 0.8) * took, *arguments,
                           f"--output={killed}") for _ in range(command.KILLS)]
    self.assertTrue(any(was_running))
    status, _, error = command.run(*arguments, f"--output={killed}")
    self.assertEqual(status, 0, error)
    self.assertEqual((killed / "results.jsonl").read_bytes(),
                     (whole / "results.jsonl").read_bytes())
    for name in ("soc", "zero", *along):
      ours, theirs = (predictions.load(
          output / "predictions" / "digits" / name) for output in (
              killed, whole))
      np.testing.assert_array_equal(ours.logits, theirs.logits)
      self.assertEqual(ours.ids, theirs.ids)

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
        f"--config.data.name={root}", "--config.method.name=zero_shot",
        f"--output={output}")
    self.assertEqual(status, 0, error)
    self.assertIn("my_pets", printed)
    one = predictions.load(output / "predictions" / "my_pets" / "zero_shot")
    self.assertEqual(one.class_names, ("cat", "hot dog"))
    self.assertEqual(one.ids[0], "cat/0.png")

  @pytest.mark.slow
  def test_what_others_are_compared_with(self):
    output = self._folder("run")
    status, _, error = _evaluate(
        "--config.method.name=zero_shot,tpt,zero,mta",
        "--config.reference=zero", "--config.temperature.split=validation",
        "--config.temperature.limit=20", f"--output={output}")
    self.assertEqual(status, 0, error)
    rows = map(json.loads,
               (output / "differences.jsonl").read_text().splitlines())
    self.assertEqual(
        {stages.of(row).label: stages.reference_of(row).label for row in rows},
        {**dict.fromkeys(("zero_shot", "tpt", "mta"), "zero"),
         **{f"{name}+temperature": name
            for name in ("zero_shot", "tpt", "zero", "mta")}})
    self.assertIn("What a temperature repairs: digits",
                  (output / "report.html").read_text())

  @pytest.mark.slow
  def test_a_method_in_several_orders_may_be_what_others_are_compared_with(
      self):
    output = self._folder("run")
    status, _, error = _evaluate(
        "--config.method.name=zero_shot,tda,dpe", "--config.reference=tda",
        "--config.stream.orders=2", f"--output={output}")
    self.assertEqual(status, 0, error)
    rows = map(json.loads,
               (output / "differences.jsonl").read_text().splitlines())
    self.assertEqual(
        {row["method"]: (row["reference"], row["reference_order_seeds"])
         for row in rows},
        dict.fromkeys(("zero_shot", "dpe"), ("tda", [0, 1])))

  @pytest.mark.slow
  def test_a_temperature_without_an_optimum_is_not_applied_and_says_so(self):
    """One validation image, and that one is right."""
    output = self._folder("run")
    arguments = (
        "--config.method.name=zero_shot",
        "--config.temperature.split=validation",
        "--config.temperature.limit=1", f"--output={output}")
    status, printed, error = _evaluate(*arguments)
    self.assertEqual(status, 0, error)
    plain, scaled = (
        json.loads(line)
        for line in (output / "results.jsonl").read_text().splitlines())
    self.assertEqual(scaled["temperature"], 1)
    self.assertEqual(scaled["recalibration_images"], 1)
    self.assertEqual(scaled["recalibrator"], "temperature")
    note, = scaled["recalibration_notes"]
    self.assertStartsWith(note, "all 1 of 1 predictions are right")
    for name in ("accuracy", "ece", "nll"):
      self.assertEqual(scaled[name], plain[name])
    self.assertNotIn("recalibrator", plain)
    said = f"digits, zero_shot+temperature: {note}"
    self.assertIn(f"jaxcal: {said}\n", error)
    for text in (printed, (output / "results.md").read_text()):
      self.assertIn(f"On the fits:\n\n- {said}.", text)
    page = (output / "report.html").read_text()
    self.assertIn(f"<li>{said}.</li>", page)
    # A run that goes on says it, too.
    status, again, error = _evaluate(*arguments)
    self.assertEqual((status, again), (0, printed))
    self.assertIn(f"jaxcal: {said}\n", error)

  @pytest.mark.slow
  def test_benchmark_set_from_the_template_and_from_a_flat_context(self):
    """Ten images of noise in the layout of EuroSAT."""
    root = self._folder("benchmarks")
    names = catalogue.row("eurosat").class_names
    rows = [[f"{name}/{label}.jpg", label, name]
            for label, name in enumerate(names)]
    miniatures.split_file(
        root / "eurosat" / "split_zhou_EuroSAT.json", test=rows)
    miniatures.images(root / "eurosat" / "2750", [row[0] for row in rows])
    arguments = ("--config.data.name=eurosat", f"--config.data.root={root}",
                 "--config.method.name=zero_shot,tpt")
    status, _, error = _evaluate(*arguments)
    self.assertEqual(status, 2)
    self.assertRegex(error, "eurosat.*8,100 images.*found 10")
    arguments += ("--config.data.partial=True",)
    predicted = {}
    for context, num_steps in (("template", 1), ("fpp", 0)):
      output = self._folder(context)
      status, printed, error = _evaluate(
          *arguments, f"--config.method.context={context}",
          "--config.fpp.num_steps=3", f"--config.method.num_steps={num_steps}",
          f"--output={output}")
      self.assertEqual(status, 0, error)
      self.assertIn("eurosat", printed)
      folder = output / "predictions" / "eurosat"
      self.assertEqual((folder / "fpp.npz").exists(), context == "fpp")
      for name in ("zero_shot", "tpt"):
        one = predictions.load(folder / name)
        self.assertEqual(one.class_names, names)
        self.assertLen(one.ids, 6)
        for image_id, label in zip(one.ids, one.labels, strict=True):
          self.assertEqual(image_id, rows[label][0])
        self.assertEqual(
            one.settings["config.method.num_steps"], num_steps)
        predicted[context, name] = one.logits
    with np.load(folder / "fpp.npz", allow_pickle=False) as state:
      count = sum(name.startswith("arr_") for name in state.files)
      leaves = [state[f"arr_{i}"] for i in range(count)]
    self.assertEqual(leaves[0].shape, (4, 128))  # a photo of a
    self.assertEqual(leaves[-1], 3)
    apart = lambda one, other: np.abs(predicted[one] - predicted[other]).max()
    self.assertGreater(
        apart(("fpp", "zero_shot"), ("template", "zero_shot")), 0.1)
    # Without a step nothing is tuned.
    np.testing.assert_array_equal(
        predicted["fpp", "tpt"], predicted["fpp", "zero_shot"])
    self.assertGreater(
        apart(("template", "tpt"), ("template", "zero_shot")), 0.1)

  @parameterized.parameters(
      (("--config.method.name=otpt",),
       "unknown method 'otpt'; did you mean o_tpt"),
      (("--config.data.name=nowhere",), "unknown image set 'nowhere'"),
      (("--config.evidence=base_text_features",),
       "evidence=base_text_features is of tuned parameters: give them with "
       "--config.method.tuned"),
      (("--config.evidence=scores",),
       "evidence=scores cannot be computed here; choose from: image_features,"),
      (("--config.method.wight=3",), "wight"),
      (("--config.reference=zero_sot",),
       "reference=zero_sot is not among the predictions; did you mean zero_"),
      (("--config.batch_size=abc",), "'abc' is not a whole number"),
      (("--config.method.selection_fraction=0.1",), "keep one of 8 views"),
      (("--config.data.name=eurosat",),
       "eurosat is a benchmark set.*--config.data.root"),
      (("--config.model.image_precision=float32",),
       "image_precision is 'float32', expected 'auto', 'highest', 'high', "
       "'default' or 'bfloat16'"),
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
    status, printed, _ = command.here("--help")
    self.assertEqual(status, 0)
    self.assertIn("jaxcal evaluate --config=", printed)
    status, printed, _ = command.here("evaluate", "--help")
    self.assertEqual(status, 0)
    self.assertIn("--config.fpp.learning_rate=0.01", printed)
    status, _, error = command.here("evalute")
    self.assertEqual(status, 2)
    self.assertIn("unknown command 'evalute'; did you mean evaluate", error)


class MethodTest(parameterized.TestCase):

  @parameterized.parameters(
      ("tpt", None, 1), ("tpt", 2, 2), ("tpt", 0, 0),
      ("c_tpt_two_step", None, 2), ("c_tpt_two_step", 4, 4),
      ("zero_shot", 2, 0))
  def test_number_of_steps(self, name, given, expected):
    asked = config.ExperimentConfig()
    asked.method.num_steps = given
    method = config_methods.method_of(asked, name)
    self.assertEqual(method.objective().num_steps, expected)


if __name__ == "__main__":
  absltest.main()
