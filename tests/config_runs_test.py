"""From a config to predictions and to what is known of them, in Python."""

import pathlib
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np

import jaxcal
from jaxcal import config as config_lib
from jaxcal import config_inputs
from jaxcal import config_methods
from jaxcal import config_record
from jaxcal import config_runs
from jaxcal import config_sweep
from jaxcal import config_tuning
from jaxcal import predictions as predictions_lib
from jaxcal import run
from jaxcal import streams
from jaxcal import tasks
from jaxcal.data import load
from jaxcal.features import extract
from jaxcal.features import fill


def _config():
  config = config_lib.ExperimentConfig(batch_size=2)
  config.data = config_lib.DataConfig(name=("digits",), limit=3)
  config.views.number = 5
  config.method.name = ("zero_shot", "mta")
  config.method.selection_fraction = 0.5
  return config


class ConfigRunsTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.config = _config()
    cls.model = config_inputs.load_model(cls.config.model)
    cls.images = load.images("digits", limit=3)

  def setUp(self):
    super().setUp()
    self.output = pathlib.Path(self.create_tempdir().full_path)

  def _predict(self, config, store=None, **options):
    asked = config_runs.asked(
        config, self.model, self.images, config_methods.methods_of(config),
        self.output, identity=load.identity_of(self.images, store=store))
    return dict(config_runs.predict(
        config, self.model, asked, dict.fromkeys(asked.methods, {}), **options))

  def test_predictions_are_those_of_predict_and_are_made_once(self):
    found = self._predict(self.config)
    methods = config_methods.methods_of(self.config)
    expected = jaxcal.predict(
        methods, jaxcal.task_of(self.model, self.images.class_names),
        self.images, model=self.model, num_views=5, batch_size=2)
    self.assertEqual(set(found), set(methods))
    for name, path in found.items():
      self.assertEqual(path, self.output / "predictions/digits" / name)
      np.testing.assert_allclose(
          predictions_lib.load(path).logits, expected[name].logits, atol=1e-4)
    with mock.patch.object(run, "iterate", side_effect=AssertionError):
      self.assertEqual(self._predict(self.config), found)
    other = _config()
    other.views.seed = 1
    with self.assertRaisesRegex(ValueError, "views.seed"):
      self._predict(other)

  def _logits(self, found):
    return {name: predictions_lib.load(path).logits
            for name, path in found.items()}

  def test_work_begun_with_other_numbers_is_not_gone_on_with(self):
    def stop(done, total):
      if done == total:
        raise KeyboardInterrupt

    config = _config()
    config.method.name, config.method.zero.smoothing = ("zero",), 50.0
    with self.assertRaises(KeyboardInterrupt):
      self._predict(config, on_batch=stop)
    self.assertLen(list(self.output.rglob("parts-*/0*.npz")), 1)
    config.method.zero.smoothing = None
    found = self._logits(self._predict(config))
    self.assertEmpty(list(self.output.rglob("parts-*")))
    self.output = pathlib.Path(self.create_tempdir().full_path)
    jax.tree.map(np.testing.assert_array_equal, found, self._logits(
        self._predict(config)))

  def test_what_was_begun_together_is_finished_together(self):
    """Also where a run was killed between two saves."""
    config, save = _config(), predictions_lib.save
    config.method.name = ("zero", "mta")

    def stop(one, path):
      if path.name == "mta":
        raise KeyboardInterrupt
      save(one, path)

    with (mock.patch.object(predictions_lib, "save", stop),
          self.assertRaises(KeyboardInterrupt)):
      self._predict(config)
    with mock.patch.object(run, "_compute", side_effect=AssertionError):
      self.assertEqual(list(self._predict(config)), ["zero", "mta"])

  def test_several_orders(self):
    config = _config()
    config.method.name, config.stream.seed = ("zero_shot", "tda"), 4
    one = self._logits(self._predict(config))
    config.stream.orders = 2
    found = self._predict(config)
    self.assertEqual(list(found), ["zero_shot", "tda-order4", "tda-order5"])
    logits = self._logits(found)
    np.testing.assert_allclose(logits["tda-order4"], one["tda"], atol=1e-4)
    settings = predictions_lib.settings(found["tda-order5"])
    self.assertEqual(settings["identity"]["stream.seed"], 5)
    self.assertEqual(settings["identity"]["features"], "computed")
    # Further orders are computed alone, out of the features that are kept.
    config.stream.orders = 3
    iterate = streams.iterate
    with (mock.patch.object(run, "iterate", side_effect=AssertionError),
          mock.patch.object(extract, "from_images", return_value=iter(())),
          mock.patch.object(streams, "iterate", side_effect=iterate) as called):
      more = self._predict(config)
    self.assertEqual(list(called.call_args.args[3]), [6])
    self.assertEqual(list(more), [*found, "tda-order6"])
    with self.assertRaisesRegex(ValueError, "stream.order: stored 'shuffled'"):
      config.stream.order = "sorted"
      self._predict(config)

  def test_imbalance_is_part_of_the_identity_and_said(self):
    config = _config()
    config.method.name = ("zero",)
    images = load.images("digits", limit=20)
    self.assertEmpty(config_runs.remarks(config, {"digits": images}))
    self._predict(config)
    config.stream.imbalance, config.stream.order = 4.0, "sorted"
    self.assertEqual(config_runs.remarks(config, {"digits": images}), {
        "order": "Methods with a state see the images sorted, one class after "
                 "the other (stream.order).",
        "digits": "digits: 11 of 20 images are kept; the share of a class "
                  "falls exponentially from 1 to 1/4, in the order of the "
                  "classes (stream.imbalance)."})
    with self.assertRaisesRegex(
        ValueError, "stream.imbalance: stored 'nothing', asked 4.0"):
      self._predict(config)

  def test_orders_of_a_sweep_are_swept(self):
    config = _config()
    config.stream.orders = 2
    with self.assertRaisesRegex(ValueError, "--sweep=stream.seed=0,1,2"):
      config_sweep.variants(config, [])

  @parameterized.parameters(
      ({"orders": 0}, "orders is 0, expected >= 1"),
      ({"orders": 2, "order": "given"}, "1 with --config.stream.order=given"),
      ({"orders": 9, "seed": 2**32 - 3}, "few enough for seeds"),
      ({"imbalance": 0.5}, "imbalance is 0.5, expected >= 1"),
      ({"order": "hard"}, "'shuffled', 'given' or 'sorted'"))
  def test_streams_out_of_range(self, fields, message):
    config = _config()
    config.stream = config_lib.StreamConfig(**fields)
    with self.assertRaisesRegex(ValueError, message):
      config_lib.validate(config)

  def test_a_store_of_other_views_is_refused(self):
    config, features = _config(), self.output / "features"
    fill.fill(self.model, self.images, features / "digits",
              recipe=config_inputs.recipe(config.views, self.model),
              seed=0, dtype="float32")
    config.data.store = str(features)
    self.assertEqual(load.kind_of_features(features, "digits"),
                     "stored as float32")
    source = config_inputs.source(config, self.model, self.images)
    self.assertEqual((source.ids, source.num_views), (self.images.ids, 5))
    self.assertEqual(
        load.identity_of(self.images, store=features)["data.ids"],
        load.identity_of(self.images)["data.ids"])
    self.assertLen(self._predict(config, store=features), 2)
    config.views.min_area = 0.5
    with self.assertRaisesRegex(ValueError, "area"):
      config_inputs.source(config, self.model, self.images)

  def test_the_record_has_what_decides_the_numbers(self):
    found = config_record.describe(self.config, self.model)
    self.assertEqual(found["config.data.limit"], 3)
    self.assertEqual(found["config.method.name"], ["zero_shot", "mta"])
    self.assertEqual(found["model.fingerprint"], self.model.fingerprint)
    self.assertEqual(found["model.features"], "computed")
    self.assertContainsSubset(["config.methods", "provenance.jax"], found)
    self.assertNoCommonElements(
        [*config_lib.FREE, "config.method.mta.affinity"], found)

  def test_precisions(self):
    of = lambda model: (
        model.config.vision.precision, model.config.text.precision)
    self.assertEqual(of(tasks.load("testbed")), ("highest", "highest"))
    for backend, image in (("cpu", "highest"), ("gpu", "bfloat16")):
      with mock.patch.object(jax, "default_backend", lambda: backend):
        self.assertEqual(of(tasks.load(
            "testbed", image_precision="auto", text_precision="high")),
                         (image, "high"))


class ConfigTuningTest(absltest.TestCase):

  def _specs(self, **fields):
    config = config_lib.ExperimentConfig()
    config.tune = config_lib.TuneConfig(**fields)
    return config_tuning.specs(config)

  def test_methods_with_and_without_additions(self):
    found = self._specs(
        name=("coop", "taskres"), classes="all",
        logit_range=("free", "zs_norm"))
    self.assertEqual([one.name for one in found], [
        "coop", "coop+dor", "coop+zs_norm", "coop+zs_norm+dor", "taskres",
        "taskres+zs_norm"])

  def test_refused(self):
    with self.assertRaisesRegex(ValueError, "has a method twice"):
      self._specs(name=("coop", "coop"))
    with self.assertRaisesRegex(ValueError, "tune.outlier_images"):
      self._specs(name=("clip_adapter",))
    with self.assertRaisesRegex(ValueError, "tune.classes=all"):
      self._specs(name=("coop_class_specific",), dor=("without",))

  def test_settings(self):
    config = config_lib.ExperimentConfig()
    config.tune = config_lib.TuneConfig(
        classes="all", name=("coop", "tip_adapter"), dor=("without",),
        num_epochs=7, num_context=3, num_views=2)
    model = config_inputs.load_model(config.model)
    coop, tip = (config_tuning.setting(config, model, spec)
                 for spec in config_tuning.specs(config))
    self.assertEqual((coop.recipe.num_epochs, coop.recipe.num_context), (7, 3))
    self.assertEqual(coop.num_views, 2)
    self.assertEqual(tip.recipe.num_epochs, 0)  # nothing is trained


if __name__ == "__main__":
  absltest.main()
