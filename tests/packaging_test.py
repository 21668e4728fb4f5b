"""What the packages hold, and that an installed one runs by itself."""

import configparser
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import unittest
import zipfile

from absl.testing import absltest
import pytest

from jaxcal import provenance

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_METADATA = {"METADATA", "RECORD", "WHEEL", "entry_points.txt",
             "licenses/LICENSE", "top_level.txt"}
# Left behind by work in a checkout, and no part of a package.
_LEFT_BEHIND = ("jaxcal/__pycache__/a.pyc", "tests/__pycache__/a.pyc",
                "docs/notebooks/runs/shapes/manifest.json",
                "docs/notebooks/.ipynb_checkpoints/a.ipynb")
# Without the path of this checkout, which would stand for what is installed.
_ELSEWHERE = {name: value for name, value in os.environ.items()
              if name != "PYTHONPATH"}


def _checkout():
  """Files of the checkout, those that were not added yet among them."""
  listed = subprocess.run(
      ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
      cwd=_ROOT, check=True, capture_output=True, text=True).stdout
  return {name for name in listed.split("\0") if (_ROOT / name).is_file()}


def _build(source, into, what):
  """The path of a wheel or source distribution, built without a network."""
  into.mkdir()
  subprocess.run(
      [sys.executable, "-c", "import sys; from setuptools import build_meta; "
       f"build_meta.build_{what}(sys.argv[1])", into],
      cwd=source, check=True, capture_output=True)
  built, = into.iterdir()
  return built


def _held_by(wheel):
  with zipfile.ZipFile(wheel) as archive:
    return {name: archive.read(name) for name in archive.namelist()}


def _install(wheel, folder):
  """A new environment with the wheel, and around it the present packages."""
  subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder],
                 check=True)
  subprocess.run(
      [sys.executable, "-m", "pip", "--python", folder / "bin" / "python",
       "install", "--no-deps", "--no-index", wheel],
      check=True, capture_output=True, env=_ELSEWHERE)
  packages, = folder.glob("lib/python*/site-packages")
  # Not --system-site-packages, which are not those of an environment; and only
  # now, as pip takes a jaxcal among them for the one that it is to install.
  (packages / "present.pth").write_text("\n".join(
      path for path in sys.path
      if path.endswith(("site-packages", "dist-packages"))))
  return packages


class PackagingTest(absltest.TestCase):

  def test_every_folder_is_a_package_that_is_listed(self):
    settings = configparser.ConfigParser()
    settings.read(_ROOT / "setup.cfg")
    listed = settings["options"]["packages"].split()
    folders = {".".join(path.parent.relative_to(_ROOT).parts)
               for path in (_ROOT / "jaxcal").rglob("*.py")}
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
class BuiltPackagesTest(absltest.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    if not (_ROOT / ".git").exists():
      raise unittest.SkipTest("this is no checkout")
    cls.folder = pathlib.Path(cls.enterClassContext(
        tempfile.TemporaryDirectory()))
    cls.checkout = _checkout()
    # A copy, as building leaves its work behind.
    source = cls.folder / "source"
    for name in cls.checkout:
      (source / name).parent.mkdir(parents=True, exist_ok=True)
      shutil.copy(_ROOT / name, source / name)
    for name in _LEFT_BEHIND:
      (source / name).parent.mkdir(parents=True, exist_ok=True)
      (source / name).write_text("")
    cls.sources = _build(source, cls.folder / "sdist", "sdist")
    cls.wheel = _build(source, cls.folder / "wheel", "wheel")

  def test_the_wheel_holds_what_runs_and_nothing_else(self):
    held = {name for name in _held_by(self.wheel) if ".dist-info/" not in name}
    self.assertEqual(
        held, {name for name in self.checkout if name.startswith("jaxcal/")} |
        {f"jaxcal/{name}" for name in self.checkout
         if name.startswith("configs/")})
    self.assertContainsSubset(
        ("jaxcal/py.typed", "jaxcal/data/class_names.json",
         "jaxcal/report/page.html", "jaxcal/configs/quickstart.py",
         "jaxcal/testbed/weights/model.safetensors"), held)
    self.assertEqual(
        {name.partition(".dist-info/")[2] for name in _held_by(self.wheel)
         if ".dist-info/" in name}, _METADATA)

  def test_the_sources_hold_the_checkout(self):
    with tarfile.open(self.sources) as archive:
      held = {member.name.partition("/")[2] for member in archive
              if member.isfile()}
    made = {name for name in held if name == "PKG-INFO"
            or name.startswith("jaxcal.egg-info/")}
    self.assertEqual(held - made, self.checkout)
    self.assertContainsSubset(
        ("CHANGELOG.md", "LICENSE", "benchmarks/zoo.py", "docs/index.md",
         "tests/packaging_test.py"), held)

  def test_the_sources_give_the_same_wheel(self):
    subprocess.run([sys.executable, "-m", "tarfile", "-e", self.sources,
                    self.folder / "unpacked"], check=True)
    unpacked, = (self.folder / "unpacked").iterdir()
    again = _build(unpacked, self.folder / "again", "wheel")
    self.assertEqual(again.name, self.wheel.name)
    self.assertEqual(_held_by(again), _held_by(self.wheel))

  def test_an_installed_wheel_runs_in_an_empty_folder(self):
    environment, empty = self.folder / "environment", self.folder / "empty"
    packages = _install(self.wheel, environment)
    empty.mkdir()

    def run(program, *arguments):
      return subprocess.run(
          [environment / "bin" / program, *arguments], check=True, cwd=empty,
          capture_output=True, text=True, env=_ELSEWHERE).stdout

    self.assertEqual(
        run("python", "-c", "import jaxcal; print(jaxcal.__file__)").strip(),
        str(packages / "jaxcal" / "__init__.py"))
    self.assertIn("\n  quickstart ", run("jaxcal", "list", "configs"))
    printed = run(
        "jaxcal", "evaluate", "--config=quickstart",
        "--config.data.name=digits", "--config.data.limit=2",
        "--config.method.name=zero_shot", "--config.views.number=1",
        "--config.method.selection_fraction=1.0",
        "--config.metrics.num_resamples=20")
    self.assertIn("Written to runs/quickstart-", printed)
    first, *_ = re.findall(r"```python\n(.*?)```", (
        _ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    self.assertIn("| accuracy % ", run("python", "-c", first))


if __name__ == "__main__":
  absltest.main()
