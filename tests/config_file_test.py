"""Names and paths become configs; errors are in `cli/main_test`."""

import importlib.util
import pathlib
from unittest import mock

from absl.testing import absltest

import jaxcal
from jaxcal import config as config_lib
from jaxcal import config_file

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_SHIPPED = ["bayesvlm", "dor_base_to_new", "quickstart", "set_sizes", "stress",
            "testbed", "zoo"]
_GOOD = ("from jaxcal import config\n\n\ndef get_config():\n"
         "  experiment = config.ExperimentConfig()\n"
         "  experiment.data.split = 'mine'\n  return experiment\n")


class ConfigFileTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)

  def test_the_defaults_are_those_of_the_dataclass(self):
    self.assertEqual(
        config_file.load("defaults"), config_lib.ExperimentConfig())

  def test_shipped_ones_are_the_files_that_people_edit(self):
    self.assertEqual(list(config_file.shipped()), _SHIPPED)
    for name, path in config_file.shipped().items():
      self.assertEqual(path, _ROOT / "configs" / f"{name}.py")
      spec = importlib.util.spec_from_file_location(name, path)
      module = importlib.util.module_from_spec(spec)
      spec.loader.exec_module(module)
      config = config_file.load(name)
      self.assertEqual(config, module.get_config())
      self.assertNotEqual(config, config_lib.ExperimentConfig())
    self.assertEqual(config_file.load("quickstart").data.limit, 250)

  def test_an_installed_package_has_them_inside(self):
    inside = self.folder / "jaxcal" / "configs"
    inside.mkdir(parents=True)
    (inside / "theirs.py").write_text(_GOOD)
    (inside / "__init__.py").write_text("")
    (self.folder / "configs").mkdir()
    (self.folder / "configs" / "other.py").write_text(_GOOD)
    with mock.patch.object(
        jaxcal, "__file__", str(self.folder / "jaxcal" / "__init__.py")):
      self.assertEqual(
          config_file.shipped(), {"theirs": inside / "theirs.py"})
      self.assertEqual(config_file.load("theirs").data.split, "mine")

  def test_a_file_is_read_anew(self):
    path = self.folder / "mine.py"
    for split in ("here", "gone"):  # of one size, and within a second
      path.write_text(_GOOD.replace("mine", split))
      self.assertEqual(config_file.load(str(path)).data.split, split)
    self.assertEqual(list(self.folder.iterdir()), [path])

  def test_a_path_of_any_kind(self):
    path = self.folder / "mine.py"
    path.write_text(_GOOD)
    self.assertEqual(config_file.load(path).data.split, "mine")
    with self.assertRaisesRegex(FileNotFoundError, "is a folder and none of"):
      config_file.load(self.folder)

  def test_fields_that_do_not_exist(self):
    config_file.check_field("config.data.limit")
    for name, message in (
        ("config.limit", "no field --config.limit; did you mean --config.dat"),
        ("config.data", "no field --config.data, but a section, of --config.d"),
        ("config.methods", "--config.methods holds methods of your own"),
        ("config.xyzzy", "^no field --config.xyzzy$")):
      with self.assertRaisesRegex(ValueError, message):
        config_file.check_field(name)


if __name__ == "__main__":
  absltest.main()
