"""How the command starts: -m, --version, --help, configs, and its errors."""

import json
import os
import pathlib
import re
import subprocess
import sys
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import pytest

import jaxcal
from jaxcal import config as config_lib
from jaxcal import config_file
from jaxcal.adapt import methods
from jaxcal.cli import main
from jaxcal.data import catalogue
from jaxcal.testbed import sets
from jaxcal.tuning import methods as tuning_methods
from tests.cli import command

# Two images, one view, one method: as little as a run can be.
_TINY = ("--config.data.name=digits", "--config.data.limit=2",
         "--config.method.name=zero_shot", "--config.views.number=1",
         "--config.method.selection_fraction=1.0",
         "--config.metrics.num_resamples=20")
# Comes to the fields, and no further.
_STOP = "--config.data.split=nowhere"
_STOPPED = "unknown split 'nowhere'"
_SHIPPED = list(config_file.shipped())
_GOOD = ("from jaxcal import config\n\n\ndef get_config():\n"
         "  experiment = config.ExperimentConfig()\n"
         "  experiment.data.split = 'mine'\n  return experiment\n")


class _InAFolder(parameterized.TestCase):
  """Every test has an empty folder, in which the command runs."""

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)

  def _run(self, *arguments):
    return command.here(*arguments, folder=self.folder)

  def _write(self, name, text):
    (self.folder / name).write_text(text)
    return name

  def _refused(self, message, *arguments):
    status, printed, error = self._run(*arguments)
    self.assertEqual((status, printed), (2, ""))
    self.assertRegex(error, message)
    self.assertStartsWith(error, "jaxcal: ")
    self.assertNotIn("Traceback", error)
    return error


class StartTest(_InAFolder):

  def test_as_a_module_in_a_process_of_its_own(self):
    environment = os.environ | {"PYTHONPATH": str(command.ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "jaxcal", "--version"], cwd=self.folder,
        env=environment, capture_output=True, text=True)
    self.assertEqual((done.returncode, done.stdout, done.stderr),
                     (0, f"jaxcal {jaxcal.__version__}\n", ""))
    done = subprocess.run(
        [sys.executable, "-m", "jaxcal", "evaluate", "--config=quickstrat"],
        cwd=self.folder, env=environment, capture_output=True, text=True)
    self.assertEqual((done.returncode, done.stdout), (2, ""))
    self.assertStartsWith(done.stderr, "jaxcal: --config=quickstrat is no file")

  @parameterized.parameters((()), ("-h",), ("--help",), ("help",))
  def test_overview(self, *arguments):
    status, printed, error = self._run(*arguments)
    self.assertEqual((status, error), (0, ""))
    for name in main.COMMANDS:
      self.assertRegex(printed, f"(?m)^  {name} +[a-z]")

  @parameterized.product(
      name=list(main.COMMANDS), flag=("-h", "--help"))
  def test_help_of_every_command(self, name, flag):
    status, printed, error = self._run(*name.split(), flag)
    self.assertEqual((status, error), (0, ""))
    self.assertStartsWith(printed, f"jaxcal {name}")
    self.assertEqual(
        "--config\n" in printed,
        name not in (
            "compare", "conformal", "data", "failure", "list", "recalibrate",
            "report"))


class ConfigTest(_InAFolder):

  @parameterized.parameters(
      ((), "defaults"), (("--config=quickstart",), "quickstart"))
  @pytest.mark.slow
  def test_a_run_in_an_empty_folder(self, arguments, name):
    status, printed, error = self._run("evaluate", *arguments, *_TINY)
    self.assertEqual(status, 0, error)
    run, = (self.folder / "runs").iterdir()
    self.assertRegex(run.name, f"^{name}-[0-9a-f]{{8}}$")
    self.assertIn(run.name, printed)
    about = json.loads((run / "run.json").read_text())
    self.assertEqual(about["config.data.limit"], 2)
    self.assertEqual(about["config.metrics.num_bins"],
                     config_lib.MetricsConfig().num_bins)

  def test_a_file_comes_before_a_shipped_name_and_a_folder_does_not(self):
    (self.folder / "quickstart").mkdir()
    self._refused(_STOPPED, "evaluate", "--config=quickstart", _STOP)
    self._write("testbed", _GOOD)
    self._refused("unknown split 'mine'", "evaluate", "--config=testbed")

  def test_a_dataclass_of_its_own(self):
    name = self._write(
        "own.py", "from __future__ import annotations\nimport dataclasses\n"
        "from jaxcal import config\n\n\n@dataclasses.dataclass\nclass Mine:\n"
        "  split: str = 'mine'\n\n" + _GOOD.partition("\n")[2].replace(
            "'mine'", "Mine().split"))
    self._refused("unknown split 'mine'", "evaluate", f"--config={name}")

  @parameterized.parameters(
      ((_STOP, "--config=mine.py"),),
      ((_STOP, "--config", "mine.py"),),
      (("-config=mine.py", _STOP),),
      (("--config=testbed", _STOP, "--config=mine.py"),),
      (("--flagfile=flags", "--config.data.limit=3"),))
  def test_fields_override_the_file_wherever_it_stands(self, arguments):
    self._write("mine.py", _GOOD + "print('mine')\n")
    (self.folder / "flags").write_text(f"{_STOP}\n--config=mine.py\n")
    status, printed, error = self._run("evaluate", *arguments)
    self.assertEqual((status, printed), (2, "mine\n"))
    self.assertIn(_STOPPED, error)

  def test_fields_of_one_run_are_no_fields_of_the_next(self):
    self._refused(_STOPPED, "evaluate", _STOP)
    self._refused("unknown image set 'x'", "evaluate", "--config.data.name=x")


class ConfigErrorTest(_InAFolder):

  @parameterized.parameters(
      ("def get_config(:\n", r"slip\.py, line 1: SyntaxError: "),
      ("\n\n  x = 1\n", r"slip\.py, line 3: IndentationError: "),
      ("import nothing_of_this_name\n",
       r"slip\.py, line 1: ModuleNotFoundError: .*nothing_of_this_name"),
      ("x = 1\n", r"slip\.py has no get_config\(\); expected a function"),
      ("get_config = 1\n", r"slip\.py: TypeError: .*not callable"),
      ("def get_config(name):\n  pass\n",
       r"slip\.py: TypeError: get_config\(\) missing 1 required"),
      ("def get_config():\n  pass\n",
       r"get_config\(\) of slip\.py returned None, expected a jaxcal\.config"),
      ("def get_config():\n  return f()\n\n\ndef f():\n  return 1 / 0\n",
       r"slip\.py, line 6: ZeroDivisionError: division by zero"),
      ("def get_config():\n  raise ValueError('mine')\n",
       r"slip\.py, line 2: ValueError: mine"),
      ("def get_config():\n  return open('absent.txt')\n",
       r"slip\.py, line 2: FileNotFoundError: .*absent\.txt"),
      ("from jaxcal import config\n\n\ndef get_config():\n"
       "  experiment = config.ExperimentConfig()\n"
       "  experiment.data.limits = 3\n",
       r"slip\.py, line 6: AttributeError: .*'limits'"),
      ("from ml_collections import config_dict\n\n\ndef get_config():\n"
       "  return config_dict.ConfigDict({'data': {'name': 'shapes'}})\n",
       r"returned a ConfigDict, expected a jaxcal\.config\.ExperimentConfig"))
  def test_a_file_with_a_slip(self, text, message):
    self._write("slip.py", text)
    for more in ((), ("--config.data.limit=2",)):
      error = self._refused(message, "evaluate", "--config=slip.py", *more)
      self.assertLen(error.splitlines(), 1)

  def test_debug_shows_where(self):
    self._write("slip.py", "def get_config():\n  return 1 / 0\n")
    status, _, error = self._run("evaluate", "--config=slip.py", "--debug")
    self.assertEqual(status, 2)
    self.assertIn('slip.py", line 2, in get_config', error)

  @parameterized.product(
      given=("no.py", "configs/quickstart.py", "quickstar", "", "somewhere"),
      more=((), ("--config.data.limit=2",)))
  def test_no_such_file(self, given, more):
    (self.folder / "somewhere").mkdir()
    what = "a folder" if given == "somewhere" else "no file"
    self._refused(
        f"--config={given} is {what} and none of the shipped configs; expected "
        f"defaults, {', '.join(_SHIPPED)}, or the path of a Python file",
        "evaluate", f"--config={given}", *more)

  @parameterized.parameters(
      "--config.data.limits=2", "--config.datum.limit=2", "--config.=2",
      "--config.data.limit.x=2", "--config.data.name[0]=digits",
      "--config.data.limit=two", "--config.data.partial=maybe", "--confg=x",
      "--config.data=2", "--config.data.limit", "--flagfile=nowhere")
  def test_fields_that_do_not_exist_or_fit(self, flag):
    self._refused("`jaxcal evaluate --help` names every field", "evaluate",
                  "--config=quickstart", flag)


class ListTest(_InAFolder):

  def _list(self, *arguments):
    """The names of the lines, each with a sentence."""
    status, printed, error = self._run("list", *arguments)
    self.assertEqual((status, error), (0, ""))
    lines = re.findall(r"(?m)^  (\S+) +(\S.*)$", printed)
    self.assertLen(lines, len(re.findall(r"(?m)^  ", printed)))
    return dict(lines)

  def test_kinds(self):
    self.assertEqual(
        list(self._list()), ["methods", "datasets", "recalibrators", "configs"])

  def test_methods(self):
    listed = self._list("methods")
    self.assertEqual(
        list(listed), [*methods.METHODS, *tuning_methods.METHODS])
    self.assertEqual(listed["tpt"], "Entropy alone. Shu et al., Test-Time "
                     "Prompt Tuning, NeurIPS 2022.")
    self.assertStartsWith(listed["maple"], "MaPLe: prompts in both towers")
    for about in listed.values():
      self.assertRegex(about, r"^[A-Z].*\.$")

  def test_datasets(self):
    listed = self._list("datasets")
    self.assertEqual(list(listed), [*sets.NAMES, *catalogue.CATALOGUE])
    for name, about in (
        ("digits", "10 classes     597 test images, scanned"),
        ("shapes-blur", "18 classes   5,000 test images, distribution shift of "
         "shapes"),
        ("imagenet_r", "200 classes  30,000 test images, distribution shift of "
         "ImageNet: ImageNet-R"),
        ("eurosat", "10 classes   8,100 test images, fine-grained: EuroSAT "
         "(RGB)")):
      self.assertEqual(listed[name], about)

  def test_recalibrators(self):
    self.assertIn("temperature", self._list("recalibrators"))

  def test_configs(self):
    listed = self._list("configs")
    self.assertEqual(list(listed), ["defaults", *_SHIPPED])
    self.assertEqual(listed["quickstart"], "Five methods on the four testbed "
                     "sets, 250 images each: a few minutes.")

  def test_a_config_that_is_being_edited(self):
    path = self.folder / "mine.py"
    with mock.patch.object(
        config_file, "shipped", lambda: {"mine": path, "other": path}):
      path.write_text('"""Mine, at last.\n\nMore."""\nraise ValueError\n')
      self.assertEqual(self._list("configs")["mine"], "Mine, at last.")
      path.write_text("\ndef get_config(:\n")
      self.assertEqual(self._list("configs")["other"],
                       "Cannot be read, line 2: invalid syntax.")

  @parameterized.parameters(
      (("method",), "cannot list 'method'; choose one of: methods, datasets, "
       "recalibrators, configs"),
      (("methods", "configs"), "cannot list 'methods configs'"),
      (("methods", "--config=quickstart"),
       "list takes no flags, got --config=quickstart"))
  def test_errors(self, arguments, message):
    self._refused(message, "list", *arguments)

  def test_interrupted(self):
    with mock.patch.object(main.importlib, "import_module", lambda name: (
        mock.Mock(main=mock.Mock(side_effect=KeyboardInterrupt)))):
      status, _, error = self._run("list", "methods")
    self.assertEqual(status, 130)
    self.assertRegex(error, "interrupted; the same command goes on from here")


if __name__ == "__main__":
  absltest.main()
