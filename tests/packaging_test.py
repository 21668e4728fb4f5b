"""What an installed package holds, and that it runs from there."""

import configparser
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

from absl.testing import absltest
import pytest

from jaxcal import provenance

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_SOURCES = ("jaxcal", "configs", "setup.cfg", "pyproject.toml", "README.md",
            "LICENSE")


def _files(folder, ending=""):
  return {path.relative_to(_ROOT).as_posix()
          for path in (_ROOT / folder).rglob(f"*{ending}")
          if path.is_file() and "__pycache__" not in path.parts}


class PackagingTest(absltest.TestCase):

  def test_every_folder_is_a_package_that_is_listed(self):
    settings = configparser.ConfigParser()
    settings.read(_ROOT / "setup.cfg")
    listed = settings["options"]["packages"].split()
    folders = {path.rpartition("/")[0].replace("/", ".")
               for path in _files("jaxcal", ".py")}
    self.assertEqual(listed, sorted(folders | {"jaxcal.configs"}))

  def test_the_configs_inside_do_not_change_the_hash_of_the_code(self):
    """Or an installed copy would not be known as that of a checkout."""
    package = pathlib.Path(self.create_tempdir().full_path)
    (package / "room").mkdir()
    (package / "room" / "one.py").write_text("x = 1\n")
    before = provenance.source_hash(package)
    (package / "configs").mkdir()
    (package / "configs" / "mine.py").write_text("x = 2\n")
    provenance.source_hash.cache_clear()
    self.assertEqual(provenance.source_hash(package), before)
    (package / "room" / "configs.py").write_text("x = 3\n")
    provenance.source_hash.cache_clear()
    self.assertNotEqual(provenance.source_hash(package), before)

  @pytest.mark.slow
  def test_a_wheel_has_everything_and_runs_in_an_empty_folder(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    # A copy, as building leaves its work behind.
    for name in _SOURCES:
      source, copy = _ROOT / name, folder / "source" / name
      if source.is_dir():
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__py*"))
      else:
        shutil.copy(source, copy)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-index",
         "--no-build-isolation", "-w", folder, folder / "source"],
        check=True, capture_output=True)
    wheel, = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
      held = {name for name in archive.namelist() if ".dist-info/" not in name}
      archive.extractall(folder / "installed")
    self.assertEqual(
        held, _files("jaxcal") | {f"jaxcal/{name}" for name in _files(
            "configs", ".py")})
    self.assertContainsSubset(
        ("jaxcal/py.typed", "jaxcal/data/class_names.json",
         "jaxcal/report/page.html", "jaxcal/configs/quickstart.py",
         "jaxcal/testbed/weights/model.safetensors"), held)
    (folder / "empty").mkdir()

    def run(*arguments):
      return subprocess.run(
          [sys.executable, "-m", "jaxcal", *arguments], check=True,
          cwd=folder / "empty", capture_output=True, text=True,
          env=os.environ | {"PYTHONPATH": str(folder / "installed")}).stdout

    self.assertIn("\n  quickstart ", run("list", "configs"))
    printed = run(
        "evaluate", "--config=quickstart", "--config.data.name=digits",
        "--config.data.limit=2", "--config.method.name=zero_shot",
        "--config.views.number=1", "--config.method.selection_fraction=1.0",
        "--config.metrics.num_resamples=20")
    self.assertIn("Written to runs/quickstart-", printed)


if __name__ == "__main__":
  absltest.main()
