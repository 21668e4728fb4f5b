"""Values on the command line: read as meant, or refused in words."""

import contextlib
import dataclasses
import importlib
import os
import pathlib
import re
import typing
from unittest import mock

from absl import flags
from absl.testing import absltest
from absl.testing import flagsaver
from absl.testing import parameterized
import numpy as np
from PIL import Image

from jaxcal import config as config_lib
from jaxcal import config_file
from jaxcal import config_inputs
from jaxcal import config_methods
from jaxcal import config_sweep
from jaxcal import config_tuning
from jaxcal import listing
from jaxcal import sweep
from jaxcal.adapt import methods as methods_lib
from jaxcal.cli import config_files
from jaxcal.cli import experiment
from jaxcal.cli import main
from jaxcal.cli import posterior_import
from jaxcal.cli import shared_flags
from jaxcal.cli import tune
from jaxcal.report import sweeps
from tests.cli import command

_FIELDS = [field for field in config_lib.fields(config_lib.ExperimentConfig())
           if field.name != "config.methods"]
# A value of each kind other than None.
_SOME = {float: "0.5", int: "3", str: "something", bool: "True"}
# Of fields that not every text fits.
_SOME_OF = {"config.data.family": "shift", "config.data.template": "a {}.",
            "config.tune.template": "a {}.",
            "config.method.adapter": "tuned/seed-1.safetensors"}


@contextlib.contextmanager
def _parsed(*arguments):
  """The config that the arguments give, with the other flags set."""
  saved = flagsaver.save_flag_values()
  try:
    config_files.parse(arguments)
    yield experiment.checked_config()
  finally:
    flagsaver.restore_flag_values(saved)


def _value(name, *arguments):
  with _parsed(*arguments) as config:
    return {field.name: field.value
            for field in config_lib.fields(config)}[f"config.{name}"]


def _pictures(folder, names=("cat", "dog"), count=2):
  rng = np.random.default_rng(len(str(folder)))
  for name in names:
    (folder / name).mkdir(parents=True)
    for number in range(count):
      Image.fromarray(rng.integers(0, 256, (6, 5, 3), np.uint8)).save(
          folder / name / f"{folder.name}-{number}.png")


class _AtHome(parameterized.TestCase):
  """Every test runs in an empty folder, which is the home folder, too."""

  def setUp(self):
    super().setUp()
    self.home = pathlib.Path(self.create_tempdir().full_path)
    self.enter_context(contextlib.chdir(self.home))
    self.enter_context(mock.patch.dict(os.environ, {"HOME": str(self.home)}))


class ValuesTest(_AtHome):

  @parameterized.parameters(
      (["--config.method.learning_rate=1e-3"], 1e-3),
      (["--config.method.learning_rate", "1e-3"], 1e-3),
      (["--config.method.weight=5"], 5.0),
      (["--config.method.weight=none"], None),
      (["--config.method.weight=None"], None),
      (["--config.method.weight=3", "--config.method.weight="], None),
      (["--config.method.num_steps=none"], None),
      (["--config.views.augmix"], True),
      (["--config.views.augmix=1"], True),
      (["--noconfig.views.augmix"], False),
      (["--config.data.limit=3", "--config.data.limit=4"], 4),
      (["--config.data.template=a photo of a {}, a type of pet."],
       "a photo of a {}, a type of pet."),
      (["--config.data.root="], None),
      (["--config.data.root=None"], None),
      (["--config.views.seed=1"], 1))
  def test_forms(self, arguments, expected):
    name = re.search(r"config\.([\w.]+)", arguments[0])[1]
    for order in (["--config=quickstart", *arguments],
                  [*arguments, "--config=quickstart"]):
      value = _value(name, *order)
      self.assertEqual(value, expected)
      self.assertIs(type(value), type(expected))

  @parameterized.named_parameters(
      (field.name, field) for field in _FIELDS if field.name.count(".") < 3)
  def test_as_help_prints_it(self, field):
    shown, = (line for line in listing.fields([field.name])
              if line.startswith(f"  --{field.name}="))
    self.assertEqual(
        _value(field.name.removeprefix("config."), shown.strip()), field.value)

  @parameterized.named_parameters(
      (field.name, field) for field in _FIELDS if field.may_be_none)
  def test_none_for_every_field_that_may_be_none(self, field):
    kind, _ = typing.get_args(field.kind)
    some = _SOME_OF.get(field.name, _SOME[kind])
    name = field.name.removeprefix("config.")
    self.assertEqual(_value(name, f"--{field.name}={some}"), kind(some))
    for none in ("none", "None", ""):
      with self.subTest(none):
        self.assertIsNone(_value(name, f"--{field.name}={none}"))

  @parameterized.named_parameters(
      (field.name, field) for field in _FIELDS
      if float in (field.kind, *typing.get_args(field.kind)))
  def test_numbers_are_finite(self, field):
    for text in ("nan", "inf", "-inf", "1e999"):
      with self.assertRaisesRegex(
          flags.Error, f"--{field.name}={text}: .* is not a finite number"):
        _value(field.name, f"--{field.name}={text}")

  @parameterized.parameters(
      ("limit=1e3", "'1e3' is not a whole number"),
      ("limit=none", "--config.data.limit is None, expected a whole number$"),
      ("limit=-1", "--config.data.limit is -1, expected >= 0$"),
      ("partial=no", "'no' is not true or false"),
      ("name=", r"--config.data.name is \(\), expected a name$"),
      ('name="a', "--config.data.name: '\"a' is no list of values: .* into "
       "double quotes"))
  def test_refused(self, text, message):
    with self.assertRaisesRegex((flags.Error, ValueError), message):
      _value("data.limit", f"--config.data.{text}")

  @parameterized.parameters(
      ("data.limit = '3'", "--config.data.limit is '3', expected a whole"),
      ("data.limit = True", "--config.data.limit is True, expected a whole"),
      ("method.weight = float('nan')", "--config.method.weight is nan, "
       "expected a finite number or none"),
      ("views.min_area = float('nan')", "expected a finite number"),
      ("views.augmix = 1", "--config.views.augmix is 1, expected true or f"),
      ("method.name = (1,)", r"--config.method.name is \(1,\), expected names"),
      ("data.template = None", "--config.data.template is None, expected a t"))
  def test_a_file_with_a_value_of_another_type(self, line, message):
    self._write(line)
    with self.assertRaisesRegex(ValueError, message):
      _value("data.limit", "--config=mine.py")

  def _write(self, *lines):
    (self.home / "mine.py").write_text(
        "from jaxcal import config\n\n\ndef get_config():\n"
        "  experiment = config.ExperimentConfig()\n" +
        "".join(f"  experiment.{line}\n" for line in lines) +
        "  return experiment\n")

  def test_a_file_may_have_whole_numbers_and_names_as_flags_have_them(self):
    (self.home / "a, b").mkdir()
    self._write("method.weight = 30", "method.name = 'tpt, soc'",
                "data.name = ['a, b', 'shapes,shades']",
                "method.num_steps = 'none'")
    with _parsed("--config=mine.py") as config:
      self.assertEqual(config.method.weight, 30)
      self.assertEqual(config.method.name, ("tpt", "soc"))
      self.assertEqual(config.data.name, ("a, b", "shapes", "shades"))
      self.assertIsNone(config.method.num_steps)


class NamesTest(_AtHome):

  @parameterized.parameters(
      (["tpt, soc"], ("tpt", "soc")), (["('tpt','soc')"], ("tpt", "soc")),
      (['["tpt"]'], ("tpt",)), (["tpt", "soc,tda"], ("tpt", "soc", "tda")),
      (["3"], ("3",)), (["(new)"], ("(new)",)))
  def test_several(self, given, expected):
    self.assertEqual(_value(
        "method.name", *(f"--config.method.name={one}" for one in given)),
                     expected)

  @parameterized.parameters(
      "my images", "photos, 2024", "tom's images", "(new)", "[v2]", "3",
      "a$b_$c^", "<b>x & y", '"quoted"', "('a', 'b')")
  def test_what_exists_is_taken_as_a_whole(self, name):
    (self.home / name).mkdir()
    for given in (name, str(self.home / name)):
      self.assertEqual(
          _value("data.name", f"--config.data.name={given}"), (given,))
    if '"' not in name:
      self.assertEqual(
          _value("data.name", f'--config.data.name="{name}",shapes'),
          (name, "shapes"))
    self.assertEqual(
        _value("data.name", "--config.data.name=digits, shades",
               f"--config.data.name={name}"), ("digits", "shades", name))

  def test_spaces_need_no_existing_path(self):
    self.assertEqual(
        _value("data.name", "--config.data.name=my images,other ones"),
        ("my images", "other ones"))

  def test_home(self):
    (self.home / "a, b").mkdir()
    home = str(self.home)
    self.assertEqual(
        _value("data.name", "--config.data.name=~/a, b",
               "--config.data.name=~/x,~/y, z"),
        (f"{home}/a, b", f"{home}/x", f"{home}/y", "z"))
    self.assertEqual(
        _value("method.tuned", "--config.method.tuned=~/t,u"),
        (f"{home}/t", "u"))
    # A template is no path.
    self.assertEqual(
        _value("data.template", "--config.data.template=~ {}"), "~ {}")

  @parameterized.parameters(
      "model.name", "data.root", "data.store", "data.class_names",
      "data.out_of_distribution", "posterior.folder", "tune.train",
      "tune.templates", "tune.outliers", "tune.outlier_images")
  def test_every_path_of_a_field(self, name):
    self.assertEqual(
        _value(name, f"--config.{name}=~/x y"), f"{self.home}/x y")

  def test_every_path_of_a_flag(self):
    self.assertEqual(
        _value("method.context", "--config.method.context=~/s.safetensors"),
        f"{self.home}/s.safetensors")
    with _parsed("--output=~/out", "--store=~/s", "--pairs=~/p/{0..9}.tar",
                 "--on=~/run", "--pool=~/a,b"):
      self.assertEqual(shared_flags.OUTPUT.value, f"{self.home}/out")
      for name, value in (("store", "s"), ("pairs", "p/{0..9}.tar"),
                          ("on", "run")):
        self.assertEqual(flags.FLAGS[name].value, f"{self.home}/{value}")
      self.assertEqual(config_lib.names_of(
          flags.FLAGS["pool"].value, are_paths=True), [f"{self.home}/a", "b"])

  @parameterized.parameters("report", "conformal", "recalibrate --share=0.5",
                            "posterior import --config.posterior.folder=p")
  def test_the_path_beside_the_flags(self, text):
    name, *rest = text.split(" --")
    status, _, error = command.here(
        *name.split(), "~/no run", *(f"--{flag}" for flag in rest),
        folder=self.home)
    self.assertEqual(status, 2)
    self.assertIn(f"{self.home}/no run", error)

  def test_a_folder_called_like_a_benchmark_has_not_its_template(self):
    for given, template in (("dtd", "{} texture."),
                            ("./dtd", "a photo of a {}.")):
      with _parsed(f"--config.data.name={given}") as config:
        for name in (given, "dtd"):
          self.assertEqual(config_tuning.template(config, name), template)

  def test_a_config(self):
    (self.home / "mine.py").write_text(
        "from jaxcal import config\nget_config = config.ExperimentConfig\n")
    self.assertEqual(
        config_file.load("~/mine.py"), config_lib.ExperimentConfig())


class MeantTest(_AtHome):

  @parameterized.parameters(
      ("--config.data.nmae=shapes", "no field --config.data.nmae; did you "
       "mean --config.data.name"),
      ("--config.limit=3", "no field --config.limit; did you mean "
       "--config.data.limit or --config.temperature.limit?"),
      ("-config.views.augmx", "did you mean --config.views.augmix"),
      ("--noconfig.views.augmx", "did you mean --config.views.augmix"),
      ("--config.data=shapes", "no field --config.data, but a section, of "
       "--config.data.name, --config.data.root"),
      ("--config.xyzzy=1", "no field --config.xyzzy\n"),
      ("--outptu=x", "no flag --outptu; did you mean --output"),
      ("--xyzzy", "no flag --xyzzy\n"),
      ("--config.data.name=digit", "did you mean digits"),
      ("--config.method.name=tpt,zeroshot", "did you mean zero_shot"),
      ("--config.data.name=flowers", "did you mean oxford_flowers"))
  def test_what_was_perhaps_meant(self, flag, message):
    status, printed, error = command.here("evaluate", flag, folder=self.home)
    self.assertEqual((status, printed), (2, ""))
    self.assertIn(message, error)

  def test_a_field_that_is_set_in_files_only(self):
    status, _, error = command.here("evaluate", "--config.methods=x")
    self.assertEqual(status, 2)
    self.assertIn("--config.methods holds methods of your own", error)

  def test_commands(self):
    _, _, error = command.here("evalute")
    self.assertIn("unknown command 'evalute'; did you mean evaluate?", error)

  def test_what_follows_two_dashes_is_no_field(self):
    status, _, error = command.here("evaluate", "--", "--config.data.limit=1")
    self.assertEqual(status, 2)
    self.assertIn("not a flag: --config.data.limit=1", error)


class NumbersOfFlagsTest(parameterized.TestCase):

  @parameterized.parameters(
      ("posterior select --learning_rate=nan", "--learning_rate is nan"),
      ("posterior select --learning_rate=inf", "--learning_rate is inf"),
      ("recalibrate run --share=nan", "--share is nan, expected in (0, 1)"),
      ("conformal run --share=nan", "--share is nan, expected in (0, 1)"),
      ("posterior fit --pseudo_counts=1,inf --config.posterior.folder=x",
       "--pseudo_counts are [1.0, inf]"))
  def test_are_finite(self, text, message):
    status, _, error = command.here(*text.split())
    self.assertEqual(status, 2)
    self.assertIn(message, error)

  @parameterized.parameters("nan,1", "1,inf", "-1,1", "1")
  def test_norms(self, text):
    with flagsaver.flagsaver(weight_norm2=text.split(",")):
      with self.assertRaisesRegex(ValueError, f"--weight_norm2 is {text}, exp"):
        posterior_import._norms()


class SweepValuesTest(_AtHome):

  def test_a_comma_within_a_value_is_said_before_the_model_is_loaded(self):
    with mock.patch.object(
        config_inputs, "load_model", side_effect=AssertionError):
      for template in ("a photo of a {}, a type of pet.", "a {}, a, b"):
        status, printed, error = command.here(
            "sweep", f"--sweep=data.template={template}", folder=self.home)
        self.assertEqual((status, printed), (2, ""))
        self.assertIn("expected exactly one {}\n--sweep=FIELD=VALUE,VALUE "
                      "separates values by commas; one with a comma in it "
                      "stands in double quotes", error)
      status, _, error = command.here(
          "sweep", "--sweep=data.template=a photo of a {}", "--output=~/x",
          "--sweep=views.number=1,0", folder=self.home)
      self.assertEqual((status, "commas" in error), (2, False))
    self.assertEqual(os.listdir(self.home), [])

  def test_plan(self):
    config = config_lib.ExperimentConfig()
    plan = config_sweep.variants(config, [
        sweep.parse_axis(text, config_sweep.kinds(config)) for text in (
            'data.template="a {}, a pet.",a {}.', "data.root=~/x",
            'data.name="a, b"', "method.name=zero_shot")])
    self.assertEqual(
        [(one.config.data.template, one.config.data.root, one.config.data.name)
         for one in plan],
        [("a {}, a pet.", f"{self.home}/x", ("a, b",)),
         ("a {}.", f"{self.home}/x", ("a, b",))])

  def test_folders_of_long_values(self):
    short = sweeps.folder_name({"views.seed": 1, "data.split": "val"})
    self.assertEqual(short, "views.seed=1,data.split=val")
    long = ["\u732b" * 170 + end for end in ("a {}", "b {}")]
    names = [sweeps.folder_name({"data.template": one}) for one in long]
    self.assertLen(set(names), 2)
    for name in names:
      (self.home / name).mkdir()
      self.assertRegex(name, "^data.template=\u732b+-[0-9a-f]{6}$")


class ForeignTest(_AtHome):
  """Each command knows its own flags and fields."""

  @parameterized.parameters(
      ("evaluate", "--config.tune.name=coop"), ("evaluate", "--share=0.3"),
      ("tune", "--config.method.weight=3"), ("tune", "--config.views.number=3"),
      ("features", "--config.metrics.level=0.9"),
      ("sweep", "--config.temperature.limit=3"),
      ("posterior fit", "--config.stream.seed=3"),
      ("posterior import", "--config.data.limit=3"),
      ("tune", "--config.data.family=shift"),
      ("posterior select", "--config.method.name=tpt"),
      ("report", "--config.views.seed=1"))
  def test_what_has_no_effect_is_refused(self, name, flag):
    argument = {"report": ["runs"], "posterior import": ["runs"]}.get(name, [])
    status, printed, error = command.here(*name.split(), *argument, flag)
    self.assertEqual((status, printed), (2, ""))
    self.assertIn(f"{flag.partition('=')[0]} has no effect on `jaxcal {name}`",
                  error)

  def test_help_names_what_has_an_effect(self):
    for name, one in main.COMMANDS.items():
      if one.has_flags:
        status, printed, _ = command.here(*name.split(), "--help")
        self.assertEqual(status, 0)
        module = importlib.import_module(f"jaxcal.cli.{one.module}")
        for flag in module.FLAGS:
          self.assertIn(f"--{flag}\n", printed, name)
        for field in module.FIELDS:
          if field.count(".") < 3:
            self.assertIn(f"--{field}", printed, name)


class NumbersOfMethodsTest(parameterized.TestCase):
  """A number of one method, and those that stand for all."""

  def _methods(self, *arguments):
    with _parsed(*arguments) as config:
      return config_methods.methods_of(config, config_files.overrides())

  def test_each_method_has_its_own(self):
    found = self._methods(
        "--config.method.name=c_tpt,o_tpt,soc,tda",
        "--config.method.c_tpt.weight=50", "--config.method.o_tpt.weight=2",
        "--config.method.weight=14", "--config.method.soc.delta=0.85",
        "--config.method.tda.capacity=4")
    self.assertEqual(
        [found[name].weight for name in ("c_tpt", "o_tpt", "soc")],
        [50, 2, 14])
    self.assertEqual((found["soc"].delta, found["tda"].capacity), (0.85, 4))
    # Everything else is the method's own.
    self.assertEqual(found["soc"], methods_lib.method(
        "soc", weight=14.0, delta=0.85))

  def test_a_flag_for_all_comes_before_a_file_for_one(self):
    file = self.create_tempfile(content="""
from jaxcal import config

def get_config():
  experiment = config.ExperimentConfig()
  experiment.method.name = ("c_tpt", "soc")
  experiment.method.soc.weight = 3.0
  return experiment
""").full_path
    weights = lambda *given: [one.weight for one in self._methods(
        f"--config={file}", *given).values()]
    self.assertEqual(weights(), [50, 3])
    self.assertEqual(weights("--config.method.weight=7"), [7, 7])
    self.assertEqual(weights("--config.method.weight=7",
                             "--config.method.soc.weight=8"), [7, 8])

  def test_a_weight_or_an_effective_one(self):
    file = self.create_tempfile(content="""
from jaxcal import config

def get_config():
  experiment = config.ExperimentConfig()
  experiment.method.name = ("c_tpt", "soc", "soc_quantile")
  experiment.method.weight = 3.0
  return experiment
""").full_path
    found = lambda *given: {
        name: (one.weight, getattr(one, "effective_weight", None))
        for name, one in self._methods(f"--config={file}", *given).items()}
    # What is given anew comes before the file.
    self.assertEqual(found("--config.method.effective_weight=2"), {
        "c_tpt": (50, 2), "soc": (30, 2), "soc_quantile": (30, None)})
    self.assertEqual(
        found("--config.method.effective_weight=2",
              "--config.method.soc.effective_weight=5"), {
                  "c_tpt": (50, 2), "soc": (30, 5), "soc_quantile": (30, None)})
    for both in (
        ("weight=3", "effective_weight=2"),
        ("c_tpt.weight=3", "c_tpt.effective_weight=2"),
        ("c_tpt.weight=3", "effective_weight=2"),
        ("weight=3", "c_tpt.effective_weight=2")):
      with self.assertRaisesRegex(
          ValueError, f"{both[1][:-2]} stands in place of --config.method."
          f"{both[0][:-2]}, and both are given for c_tpt; leave one"):
        found(*(f"--config.method.{one}" for one in both))

  def test_a_margin_or_its_quantile(self):
    found = lambda *given: self._methods("--config.method.name=soc", *(
        f"--config.method.{one}" for one in given))["soc"]
    self.assertEqual(found("soc.delta_quantile=0.7"),
                     methods_lib.method("soc", delta_quantile=0.7))
    with self.assertRaisesRegex(ValueError, "both are given for soc"):
      found("delta=0.5", "soc.delta_quantile=0.7")

  def test_fields_are_those_of_the_methods(self):
    parts = config_lib.method_parts(config_lib.MethodConfig())
    self.assertEqual(set(parts), set(methods_lib.METHODS))
    for name, part in parts.items():
      self.assertEqual({field.name for field in dataclasses.fields(part)},
                       set(methods_lib.numbers_of(name)), name)

  @parameterized.parameters(
      ("--config.method.soc.delta=0.3", "soc is none of the methods c_tpt"),
      ("--config.method.c_tpt.delta=0.3", "no field.*c_tpt.delta"),
      ("--config.method.soc_quantile.effective_weight=1",
       "no field.*soc_quantile.effective_weight"),
      ("--config.method.effective_weight=-1", "effective_weight is -1"),
      ("--config.method.soc.delta_quantile=2", r"expected in \[0, 1\]"),
      ("--config.method.boostadapter.extra_capacity=-1",
       "extra_capacity is -1, expected >= 0"),
      ("--config.method.ecalp.length=0", "ecalp.length is 0, expected >= 1"),
      ("--config.method.c_tpt.num_steps=-1", "c_tpt.num_steps is -1, expected"),
      ("--config.method.c_tpt.selection_fraction=2", "expected in .0, 1.|0, 1"))
  def test_refused(self, flag, message):
    with self.assertRaisesRegex(ValueError, message):
      self._methods("--config.method.name=c_tpt", flag)

  def test_what_follows_the_entropy_has_no_effect_to_be_set(self):
    with self.assertRaisesRegex(
        ValueError, "soc_quantile has an effective_weight; .* follows the ent"):
      self._methods("--config.method.name=tpt,soc_quantile",
                    "--config.method.effective_weight=2")

  def _plan(self, *axes, **own):
    config = config_lib.ExperimentConfig()
    config.method.name = ("tpt", "c_tpt", "soc")
    config.method.soc.weight = own.get("weight")
    kinds = config_sweep.kinds(config)
    [variant] = config_sweep.variants(
        config, [sweep.parse_axis(text, kinds) for text in axes])
    return [(one.method, one.numbers.get("weight"), one.numbers.get("delta"))
            for one in config_sweep.points(
                variant.config, variant.changes).values()]

  def test_a_sweep_touches_those_that_have_the_field(self):
    self.assertEqual(
        self._plan("method.soc.delta=0.5,0.85"),
        [("tpt", None, None), ("c_tpt", 50, None), ("soc", 30, 0.5),
         ("soc", 30, 0.85)])
    self.assertEqual(
        self._plan("method.weight=1,3", weight=9.0),
        [("tpt", None, None), ("c_tpt", 1, None), ("c_tpt", 3, None),
         ("soc", 1, 0.85), ("soc", 3, 0.85)])
    with self.assertRaisesRegex(
        ValueError, "method.weight, and both are given for c_tpt"):
      self._plan("method.weight=1,3", "method.effective_weight=2")
    with self.assertRaisesRegex(ValueError, "none of the methods has a tda.al"):
      self._plan("method.tda.alpha=1,2")


class FewImagesTest(_AtHome):

  def test_fewer_images_than_shots(self):
    _pictures(self.home / "test", ("cat", "dog", "fox"))
    _pictures(self.home / "train", ("cat", "dog", "fox"))
    _pictures(self.home / "more", ("dog",), 4)
    for path in (self.home / "more/dog").iterdir():
      path.rename(self.home / "train/dog" / path.name)
    options = ("--config.data.name=test", "--config.tune.train=train",
               "--config.tune.num_shots=4", "--config.tune.classes=all")
    with _parsed(*options) as config:
      with self.assertRaisesRegex(
          ValueError, "2 of 3 classes have fewer than 4 images in the training "
          r"split, such as cat with 2; ask for fewer shots, or .* "
          r"\(--config.tune.allow_fewer\)"):
        tune._task(config, "test")
    with _parsed(*options, "--config.tune.allow_fewer") as config:
      task = tune._task(config, "test")
    self.assertEqual(task.rows.shape, (3, 2 + 4 + 2))
    for rows in task.rows:
      self.assertEqual(np.bincount(task.train.labels[rows]).tolist(), [2, 4, 2])


if __name__ == "__main__":
  absltest.main()
