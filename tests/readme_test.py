"""Every command and code block of the README runs."""

import contextlib
import io
import os
import pathlib
import re
import subprocess
import sys

from absl.testing import absltest
import jax
import numpy as np
from PIL import Image
import pytest

from jaxcal.data import catalogue
from jaxcal.testbed import shipped
from tests.cli import command
from tests.data import miniatures

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_README = (_ROOT / "README.md").read_text(encoding="utf-8")
# Few images and views; otherwise the commands are those that are printed.
_SMALL = ("--config.data.limit=3 --config.data.name=digits "
          "--config.views.number=8 "
          "--config.method.selection_fraction=0.25 "
          "--config.metrics.num_resamples=20")


# The same for the commands around a posterior, in the order of printing.
_POSTERIOR = (
    ("--config=configs/bayesvlm.py",
     "--config=configs/bayesvlm.py --config.data.name=shapes "
     "--config.temperature.limit=20 --config.metrics.num_resamples=20"),
    ("posterior fit", "posterior fit --num_pairs=40"),
    ("evaluate --config=configs/bayesvlm.py",
     "evaluate --config=configs/bayesvlm.py --config.data.limit=3"),
    ("--config.data.limit=500", "--config.data.limit=5"),
    ("--budgets=10,25,50,100",
     "--budgets=2,3 --pool_limit=8 --seeds=1 --epochs=2 --samples=4"),
)
# And those around few-shot tuning.
_FEW_SHOT = (
    ("jaxcal tune --config=configs/dor_base_to_new.py",
     "jaxcal tune --config=configs/dor_base_to_new.py --config.data.limit=40 "
     "--config.data.name=shapes --config.tune.name=coop,coop+dor "
     "--config.tune.num_shots=1 --config.tune.num_seeds=1 "
     "--config.tune.num_epochs=2 --config.tune.num_outliers=20 "
     "--config.metrics.num_resamples=20"),
    ("jaxcal evaluate --config=configs/dor_base_to_new.py",
     "jaxcal evaluate --config=configs/dor_base_to_new.py "
     "--config.data.limit=5 --config.metrics.num_resamples=20"),
)
# What the commands that need weights and files from elsewhere must say.
_NEEDS_FILES = (r"no tar matches laion/00000\.tar",
                r"no hessians/hessian_CLIP-ViT-B-32.*/A_img_analytic\.pt")
# Long runs, whose results lie in benchmarks/results: not done again here.
_RECORDED = ("--store=full", "data.store=full", "configs/testbed.py",
             "image_dtype=bfloat16")


def _blocks(language):
  return re.findall(rf"```{language}\n(.*?)```", _README, re.DOTALL)


def _commands(script):
  """The arguments of each `jaxcal` of a script, as a shell reads them."""
  script = "jaxcal() { printf '%s\\0' \"$@\" $'\\n'; }\n" + script
  read = subprocess.run(["bash", "-euc", script], check=True,
                        capture_output=True, text=True).stdout
  return [line.split("\0")[:-1] for line in read.split("\n\0")[:-1]]


def _in_a_shell(script, folder):
  """Runs a script with `jaxcal` standing for this checkout's command."""
  path = folder / "jaxcal"
  path.write_text(
      f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(_ROOT)!r})\n"
      "from jaxcal.cli import main\nsys.exit(main.run())\n")
  path.chmod(0o755)
  environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
  return subprocess.run(["bash", "-euc", script], cwd=folder, check=True,
                        capture_output=True, text=True, env=environment).stdout


class ReadmeTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)
    (self.folder / "configs").symlink_to(_ROOT / "configs")

  def test_install_commands_are_those_of_continuous_integration(self):
    script = re.sub(r"\\\n\s*", "", (_ROOT / ".ci" / "run").read_text())
    script = script.replace("pip install -q", "pip install")
    commands = [block.strip() for block in _blocks("bash")
                if "pip install" in block]
    self.assertLen(commands, 2)
    for printed in commands:
      self.assertIn(printed, script)

  @pytest.mark.slow
  def test_commands(self):
    images = self.folder / "path" / "to" / "images" / "cat"
    images.mkdir(parents=True)
    Image.fromarray(np.zeros((50, 60, 3), np.uint8)).save(images / "1.png")
    self._write_eurosat(self.folder / "path" / "to" / "datasets")
    scripts = [block for block in _blocks("bash")
               if "pip install" not in block]
    self.assertLen(scripts, 14)
    for script in scripts:
      if any(done in script for done in _RECORDED):
        self._assert_understood(script)
      elif "laion/" in script:
        self._assert_needs_files(script)
      elif "--help" in script:
        self.assertIn("--config.views.seed", _in_a_shell(script, self.folder))
      else:
        self._assert_runs(script)

  def _assert_runs(self, script):
    for told, changes in (("bayesvlm", _POSTERIOR), ("dor_", _FEW_SHOT)):
      for printed, run in changes if told in script else ():
        script = script.replace(printed, run)
    # No download: the shipped weights stand in for those of the hub.
    script = script.replace(
        "openai/clip-vit-base-patch16", str(shipped.folder()))
    script = script.replace("--config.data.limit=0", "").replace(
        "--sweep=method.weight=1,3,10,30", "--sweep=method.weight=1,3")
    script = script.replace(
        "--config.data.name=eurosat",
        "--config.data.name=eurosat --config.data.partial=True")
    script = script.replace(
        "configs/quickstart.py", f"configs/quickstart.py {_SMALL}")
    for arguments in _commands(script):
      status, printed, error = self._jaxcal(*arguments)
      self.assertEqual(status, 0, error)
    self.assertRegex(
        printed, r"\| soc|\| shapes|zero_shot\+tangent|\| epig_online|"
        r"\| coop\+dor")

  def _jaxcal(self, *arguments):
    return command.here(*arguments, folder=self.folder)

  def _assert_understood(self, script):
    """All flags are read and checked before an image set is looked for."""
    for arguments in _commands(script):
      status, _, error = self._jaxcal(
          *arguments, "--config.data.name=nowhere")
      self.assertEqual(status, 2)
      self.assertRegex(error, "nowhere|full.shades")

  def _assert_needs_files(self, script):
    """The shipped weights stand in for those of the hub; nothing else does."""
    commands = _commands(
        re.sub(r"laion/CLIP[^ \n]*", str(shipped.folder()), script))
    self.assertLen(commands, len(_NEEDS_FILES))
    for arguments, message in zip(commands, _NEEDS_FILES):
      status, _, error = self._jaxcal(*arguments)
      self.assertEqual(status, 2)
      self.assertRegex(error, message)

  def _write_eurosat(self, root):
    rows = [[f"{number}.jpg", label, name] for number, (label, name) in
            enumerate(enumerate(catalogue.row("eurosat").class_names))]
    miniatures.split_file(root / "eurosat" / "split_zhou_EuroSAT.json",
                          test=rows)
    miniatures.images(root / "eurosat" / "2750", [row[0] for row in rows])

  @pytest.mark.slow
  def test_code(self):
    blocks = _blocks("python")
    self.assertLen(blocks, 5)
    names, printed = {}, io.StringIO()
    with (contextlib.redirect_stdout(printed),
          jax.numpy_rank_promotion("allow")):  # the default
      for block in blocks:
        exec(block, names)  # each may use what those before it defined
    self.assertEqual(names["pull"].shape, (47, 512))
    self.assertEqual(names["answers"].shape, (180, 18))
    self.assertGreater(names["soc"], 0)
    self.assertBetween(names["ece"], 0.05, 0.15)
    self.assertLess(names["floor"], 0.05)

  def test_files_that_it_names_exist(self):
    for path in re.findall(r"`((?:tests|configs|benchmarks)/[^`*]+)`|"
                           r"\]\(((?!http)[^)]+)\)", _README):
      self.assertTrue((_ROOT / (path[0] or path[1])).exists(), path)


if __name__ == "__main__":
  absltest.main()
