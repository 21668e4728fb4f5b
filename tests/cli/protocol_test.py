"""--config.protocol=paper: published values where nothing is given."""

import json
import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import pytest

from jaxcal import config as config_lib
from jaxcal import config_methods
from jaxcal import predictions
from jaxcal.adapt.prompt import methods
from tests.cli import command

_METHODS = ("tpt", "c_tpt", "o_tpt", "a_tpt", "soc")
# From the released scripts: weights of C-TPT, O-TPT, A-TPT and SoC.
_FINE_GRAINED = {"c_tpt": 50, "o_tpt": 18, "a_tpt": 80, "soc": 30}
_SHIFT = {"c_tpt": 20, "o_tpt": 2, "a_tpt": 10, "soc": 14}


def _config(*data, **family):
  config = config_lib.ExperimentConfig()
  config.protocol = "paper"
  config.method.name = _METHODS
  config.data = config_lib.DataConfig(name=data, **family)
  return config


def _weights(config):
  found = {name: getattr(config_methods.method_of(config, name), "weight", None)
           for name in config.method.name}
  return {name: weight for name, weight in found.items() if weight is not None}


class ProtocolTest(parameterized.TestCase):

  @parameterized.parameters(
      ("oxford_pets", _FINE_GRAINED, True), ("dtd", _FINE_GRAINED, True),
      ("imagenet", _FINE_GRAINED, False),  # by its weights, not by its views
      ("imagenet_a", _SHIFT, True), ("imagenet_sketch", _SHIFT, True))
  def test_benchmark_sets_have_the_values_of_their_family(
      self, data, weights, augmix):
    found = config_methods.for_set(_config(data), data)
    self.assertEqual(_weights(found), weights)
    self.assertEqual((found.views.number, found.views.augmix), (64, augmix))

  def test_two_families_in_one_run(self):
    config = _config("oxford_pets", "imagenet_r")
    self.assertEqual(
        _weights(config_methods.for_set(config, "imagenet_r")), _SHIFT)
    self.assertEqual(
        _weights(config_methods.for_set(config, "oxford_pets")), _FINE_GRAINED)
    self.assertIsNone(config.method.soc.weight)  # nothing is left behind
    self.assertEqual(config_methods.remarks(config, ["imagenet_r"]), {
        "imagenet_r": "imagenet_r: protocol of the papers for the family "
        "shift: 64 views, AugMix on, weights c_tpt 20, o_tpt 2, a_tpt 10, "
        "soc 14"})

  def test_methods_on_features_have_the_numbers_of_their_test_set(self):
    config = _config("eurosat")
    config.method.name = ("tda", "boostadapter", "dpe", "tps", "onzeta", "mta")
    config.method.tda.beta = 7.0
    found = config_methods.for_set(config, "eurosat")
    of = lambda name: config_methods.method_of(found, name)
    self.assertEqual((of("tda").alpha, of("tda").beta), (4, 7))
    self.assertEqual((of("boostadapter").alpha, of("boostadapter").beta,
                      of("boostadapter").extra_capacity), (4, 8, 0))
    self.assertAlmostEqual(of("dpe").learning_rate, 5e-5)
    self.assertAlmostEqual(of("tps").learning_rate, 1e-3)
    self.assertAlmostEqual(of("onzeta").beta, 0.4)
    self.assertIn(
        "; tuned on this test set by their authors: tda alpha 4, beta 8; "
        "boostadapter alpha 4", config_methods.remarks(
            config, ["eurosat"])["eurosat"])
    config.method.learning_rate = 0.5  # of all that have one
    found = config_methods.for_set(config, "eurosat")
    self.assertEqual((of("tps").learning_rate, of("dpe").learning_rate),
                     (0.5, 0.5))
    config = _config("./eurosat", family="shift")  # a folder
    config.method.name = ("tda",)
    self.assertEqual(config_methods.method_of(config_methods.for_set(
        config, "eurosat"), "tda").beta, 5)

  def test_what_is_given_wins(self):
    config = _config("imagenet_a")
    config.method.soc.weight, config.views.augmix = 5.0, False
    config.views.number = 8
    found = config_methods.for_set(config, "imagenet_a")
    self.assertEqual(_weights(found), _SHIFT | {"soc": 5})
    self.assertEqual((found.views.number, found.views.augmix), (8, False))
    told = config_methods.remarks(config, ["imagenet_a"])["imagenet_a"]
    self.assertRegex(
        told, "8 views, AugMix off.* soc 5; given: method.soc.weight, "
        "views.number, views.augmix$")
    config.method.soc.weight, config.method.weight = None, 7.0
    self.assertEqual(_weights(config_methods.for_set(config, "imagenet_a")),
                     dict.fromkeys(_SHIFT, 7))

  def test_an_effective_weight_comes_before_the_published_ones(self):
    config = _config("imagenet_a")
    config.method.soc.effective_weight = 2.0
    found = config_methods.for_set(config, "imagenet_a")
    self.assertEqual(
        _weights(found), _SHIFT | {"soc": methods.Soc().weight})
    self.assertEqual(config_methods.method_of(found, "soc").effective_weight, 2)
    self.assertRegex(
        config_methods.remarks(config, ["imagenet_a"])["imagenet_a"],
        "a_tpt 10, soc of effect 2; given: method.soc.effective_weight$")
    config.method.effective_weight = 5.0
    self.assertEqual(
        {name: config_methods.method_of(
            config_methods.for_set(config, "imagenet_a"), name).effective_weight
         for name in _SHIFT}, dict.fromkeys(_SHIFT, 5.0) | {"soc": 2.0})

  def test_without_it_all_sets_have_the_defaults_of_the_methods(self):
    config = _config("imagenet_a")
    config.protocol = "defaults"
    self.assertIs(config_methods.for_set(config, "imagenet_a"), config)
    self.assertEqual(config_methods.remarks(config, ["imagenet_a"]), {})

  def test_images_of_one_s_own_name_their_family(self):
    with self.assertRaisesRegex(
        ValueError, "that of photos with --config.data.family=fine_grained or "
        "shift"):
      config_methods.for_set(_config("photos"), "photos")
    found = config_methods.for_set(_config("photos", family="shift"), "photos")
    self.assertEqual(_weights(found), _SHIFT)
    # A folder that is called like a benchmark set is none.
    with self.assertRaisesRegex(ValueError, "that of dtd with"):
      config_methods.for_set(_config("./dtd"), "dtd")


class CommandTest(absltest.TestCase):

  @pytest.mark.slow
  def test_three_methods_at_their_own_weights(self):
    output = pathlib.Path(self.create_tempdir().full_path, "run")
    given = ("evaluate", *command.SMALL, "--config.protocol=paper",
             "--config.method.name=c_tpt,o_tpt,soc",
             "--config.data.family=fine_grained", f"--output={output}")
    status, printed, error = command.here(*given)
    self.assertEqual(status, 0, error)
    rows = [json.loads(line) for line in
            (output / "results.jsonl").read_text().splitlines()]
    self.assertEqual({row["method"]: row["weight"] for row in rows},
                     {"c_tpt": 50, "o_tpt": 18, "soc": 30})
    remark = ("family fine_grained: 8 views, AugMix on, weights c_tpt 50, "
              "o_tpt 18, soc 30; given: views.number")
    for text in (printed, (output / "results.md").read_text(),
                 (output / "report.html").read_text(),
                 (output / "run.json").read_text()):
      self.assertIn(remark, text)
    saved = predictions.settings(output / "predictions" / "digits" / "soc")
    self.assertTrue(saved["identity"]["views.augmix"])
    self.assertEqual(saved["identity"]["method.weight"], 30)

  def test_a_store_of_other_views_is_refused(self):
    root = pathlib.Path(self.create_tempdir().full_path)
    status, _, error = command.here(
        "features", *command.small("features"), f"--store={root}")
    self.assertEqual(status, 0, error)
    status, _, error = command.here(
        "evaluate", *command.SMALL, f"--config.data.store={root}",
        "--config.protocol=paper", "--config.data.family=shift",
        f"--output={root / 'run'}")
    self.assertEqual(status, 2)
    self.assertRegex(error, "views.augmix: stored False, asked True")
    self.assertFalse((root / "run" / "predictions").exists())

  @pytest.mark.slow
  def test_a_sweep_leaves_the_other_methods_as_published(self):
    output = pathlib.Path(self.create_tempdir().full_path, "run")
    status, _, error = command.here(
        "sweep", *command.SMALL, "--config.protocol=paper",
        "--config.data.family=shift", "--config.method.name=c_tpt,soc",
        "--sweep=method.soc.weight=1,2", f"--output={output}")
    self.assertEqual(status, 0, error)
    rows = [json.loads(line) for line in
            (output / "results.jsonl").read_text().splitlines()]
    self.assertEqual([(row["method"], row["weight"]) for row in rows],
                     [("c_tpt", 20), ("soc", 1), ("soc", 2)])

  @pytest.mark.slow
  def test_a_sweep_of_effective_weights(self):
    output = pathlib.Path(self.create_tempdir().full_path, "run")
    status, _, error = command.here(
        "sweep", *command.SMALL, "--config.protocol=paper",
        "--config.data.family=shift", "--config.method.name=tpt,c_tpt,soc",
        "--sweep=method.effective_weight=0.2,20", f"--output={output}")
    self.assertEqual(status, 0, error)
    rows = [json.loads(line) for line in
            (output / "results.jsonl").read_text().splitlines()]
    self.assertEqual(
        [(row["method"], row.get("effective_weight")) for row in rows],
        [("tpt", None), ("c_tpt", 0.2), ("c_tpt", 20), ("soc", 0.2),
         ("soc", 20)])
    weights = {}
    for row in rows[1:]:
      self.assertNotIn("weight", row)  # which would be the published one
      self.assertAlmostEqual(
          row["median_effective_weight"], row["effective_weight"], places=4)
      self.assertEqual(row["median_entropy_gradient"],
                       rows[0]["median_entropy_gradient"])
      weights.setdefault(row["method"], []).append(row["median_weight"])
      saved = predictions.settings(
          output / "predictions" / "digits" / row["setting"])
      self.assertEqual(saved["numbers"]["effective_weight"],
                       row["effective_weight"])
      self.assertAlmostEqual(
          saved["numbers"]["weight"], row["median_weight"], places=4)
      self.assertNotIn("method.weight", saved["identity"])
    for low, high in weights.values():
      self.assertAlmostEqual(high / low, 100, places=2)
    self.assertIn("<svg", (output / "effective_weight-digits.svg").read_text())
    page = (output / "report.html").read_text()
    for needed in ("<svg", "equal ones methods pull equally hard",
                   "effective weight</button>", "closed on the right"):
      self.assertIn(needed, page)


if __name__ == "__main__":
  absltest.main()
