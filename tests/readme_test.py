"""Every command and code block of the README runs."""

import os
import pathlib
import re
import subprocess
import sys

from absl.testing import absltest
import numpy as np
from PIL import Image

from jaxcal.data import catalogue
from jaxcal.testbed import shipped
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
     "--config=configs/bayesvlm.py --config.temperature.limit=20 "
     "--config.metrics.num_resamples=20"),
    ("posterior fit", "posterior fit --num_pairs=40"),
    ("evaluate --config=configs/bayesvlm.py",
     "evaluate --config=configs/bayesvlm.py --config.data.limit=3"),
    ("--config.data.limit=500", "--config.data.limit=5"),
    ("--budgets=10,25,50,100",
     "--budgets=2,3 --pool_limit=8 --seeds=1 --epochs=2 --samples=4"),
)
# What the commands that need weights and files from elsewhere must say.
_NEEDS_FILES = (r"no tar matches laion/00000\.tar",
                r"no hessians/hessian_CLIP-ViT-B-32.*/A_img_analytic\.pt")
# Long runs, whose results lie in benchmarks/results: not done again here.
_RECORDED = ("--store=full", "data.store=full", "configs/testbed.py",
             "image_dtype=bfloat16")


def _blocks(language):
  return re.findall(rf"```{language}\n(.*?)```", _README, re.DOTALL)


def _shell(script, folder):
  """Runs a script with `jaxcal` standing for this checkout's command."""
  command = folder / "jaxcal"
  command.write_text(
      f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(_ROOT)!r})\n"
      "from jaxcal.cli import main\nsys.exit(main.run())\n")
  command.chmod(0o755)
  environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
  environment["XLA_FLAGS"] = re.sub(
      r"(device_count)=\d+", r"\1=1", environment["XLA_FLAGS"])
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
    for command in commands:
      self.assertIn(command, script)

  def test_commands(self):
    images = self.folder / "path" / "to" / "images" / "cat"
    images.mkdir(parents=True)
    Image.fromarray(np.zeros((50, 60, 3), np.uint8)).save(images / "1.png")
    self._write_eurosat(self.folder / "path" / "to" / "datasets")
    commands = [block for block in _blocks("bash")
                if "pip install" not in block]
    self.assertLen(commands, 11)
    for command in commands:
      if any(done in command for done in _RECORDED):
        self._assert_understood(command)
        continue
      if "laion/" in command:
        self._assert_needs_files(command)
        continue
      if "bayesvlm" in command:
        for printed, run in _POSTERIOR:
          command = command.replace(printed, run)
      # No download: the shipped weights stand in for those of the hub.
      command = command.replace(
          "openai/clip-vit-base-patch16", str(shipped.folder()))
      command = command.replace("--config.data.limit=0", "").replace(
          "--sweep=method.weight=1,3,10,30", "--sweep=method.weight=1,3")
      command = command.replace(
          "--config.data.name=eurosat",
          "--config.data.name=eurosat --config.data.partial=True")
      command = command.replace(
          "configs/quickstart.py", f"configs/quickstart.py {_SMALL}")
      out = _shell(command, self.folder)
      self.assertRegex(
          out, r"\| soc|\| shapes|zero_shot\+tangent|\| epig_online|"
          r"--config\.views\.seed")

  def _assert_understood(self, script):
    """All flags are read and checked before an image set is looked for."""
    for command in re.sub(r"\\\n\s*", "", script).strip().splitlines():
      with self.assertRaises(subprocess.CalledProcessError) as caught:
        _shell(f"{command} --config.data.name=nowhere", self.folder)
      self.assertRegex(caught.exception.stderr, "nowhere|full.shades")

  def _assert_needs_files(self, script):
    """The shipped weights stand in for those of the hub; nothing else does."""
    script = re.sub(r"laion/CLIP[^ ]*", str(shipped.folder()),
                    re.sub(r"\\\n\s*", "", script))
    commands = script.strip().splitlines()
    self.assertLen(commands, len(_NEEDS_FILES))
    for command, message in zip(commands, _NEEDS_FILES):
      with self.assertRaises(subprocess.CalledProcessError) as caught:
        _shell(command, self.folder)
      self.assertRegex(caught.exception.stderr, message)

  def _write_eurosat(self, root):
    rows = [[f"{number}.jpg", label, name] for number, (label, name) in
            enumerate(enumerate(catalogue.row("eurosat").class_names))]
    miniatures.split_file(root / "eurosat" / "split_zhou_EuroSAT.json",
                          test=rows)
    miniatures.images(root / "eurosat" / "2750", [row[0] for row in rows])

  def test_code(self):
    blocks = _blocks("python")
    self.assertLen(blocks, 4)
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks) +
         "\nprint(0.05 < ece < 0.15, floor < 0.05, soc > 0, pull.shape)"],
        cwd=_ROOT, check=True, capture_output=True, text=True)
    self.assertEndsWith(done.stdout.strip(), "True True True (47, 512)")

  def test_files_that_it_names_exist(self):
    for path in re.findall(r"`((?:tests|configs|benchmarks)/[^`*]+)`|"
                           r"\]\(((?!http)[^)]+)\)", _README):
      self.assertTrue((_ROOT / (path[0] or path[1])).exists(), path)


if __name__ == "__main__":
  absltest.main()
