"""From a config to predictions and to what is known of them, in Python."""

import pathlib
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np
import pytest

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
from jaxcal.adapt import orders
from jaxcal.data import image_set as image_sets
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

  @pytest.mark.slow
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

  def test_a_sweep_has_no_images_of_other_classes(self):
    config = _config()
    config.stream.outlier_share = 0.5
    config.data.out_of_distribution = "shades"
    with self.assertRaisesRegex(ValueError, "outlier_share is 0.5, which is "
                                "for `jaxcal evaluate`: a sweep"):
      config_sweep.variants(config, [])

  def _mixed(self, **fields):
    """A config with images of other classes in the stream, and these."""
    config = _config()
    config.method.name = ("zero_shot", "mta", "tda")
    config.data.out_of_distribution = "shades"
    config.stream = config_lib.StreamConfig(outlier_share=0.4, **fields)
    return config, image_sets.limit(load.images("shades"), 2)

  def _predict_mixed(self, config, others, **options):
    asked = config_runs.asked(
        config, self.model, self.images, config_methods.methods_of(config),
        self.output, identity=load.identity_of(self.images), others=others,
        identity_of_others=load.identity_of(others))
    return dict(config_runs.predict(
        config, self.model, asked, dict.fromkeys(asked.methods, {}), **options))

  def _outside(self, path):
    return path.parent / "out_of_distribution" / path.name

  @parameterized.parameters(
      {}, {"orders": 2, "seed": 5}, {"order": "given"},
      {"order": "sorted", "orders": 2})
  @pytest.mark.slow
  def test_images_of_other_classes_are_in_the_stream(self, **fields):
    config, others = self._mixed(**fields)
    config.evidence = ("image_features", "mean_cosine")
    found = self._predict_mixed(config, others)
    # By hand: one set of images, whose last ones are of no class.
    images = self.images._replace(
        ids=(*self.images.ids, *others.ids),
        labels=np.array([*self.images.labels, 0, 0], np.int32),
        read=lambda i: (self.images, others)[i // 3].read(i % 3))
    order = {seed: orders.order(
        config.stream.order, self.images.labels, seed, num_others=2)
             for seed in config.stream.seeds or (config.stream.seed,)}
    expected = jaxcal.predict(
        config_methods.methods_of(config),
        jaxcal.task_of(self.model, images.class_names), images,
        model=self.model, num_views=5, evidence=config.evidence,
        order=order if config.stream.seeds else order[config.stream.seed])
    self.assertEqual(list(found), list(expected))
    for name, path in found.items():
      own, outside = map(predictions_lib.load, (path, self._outside(path)))
      self.assertEqual(own.ids, self.images.ids)
      self.assertEqual(outside.ids, others.ids)
      np.testing.assert_array_equal(own.labels, self.images.labels)
      self.assertEqual(outside.settings["data"], "digits/out_of_distribution")
      one = expected[name]
      np.testing.assert_allclose(
          np.concatenate([own.logits, outside.logits]), one.logits, atol=1e-4)
      self.assertEqual(own.info.keys(), one.info.keys())
      for key, values in one.info.items():
        np.testing.assert_allclose(np.concatenate(
            [own.info[key], outside.info[key]]), values, atol=1e-3)
      self.assertEqual(
          outside.evidence["image_features"].shape[0], 2)
      self.assertEqual(own.evidence["mean_cosine"],
                       outside.evidence["mean_cosine"])
    # And with other batches, once more.
    self.output = pathlib.Path(self.create_tempdir().full_path)
    config.batch_size = 1
    again = self._predict_mixed(config, others)
    for name, path in again.items():
      for of in (lambda path: path, self._outside):
        ours, theirs = (predictions_lib.load(of(one))
                        for one in (path, found[name]))
        np.testing.assert_allclose(ours.logits, theirs.logits, atol=1e-4)

  @pytest.mark.slow
  def test_both_files_are_there_or_are_made(self):
    config, others = self._mixed(orders=2)
    save = predictions_lib.save
    saved = []

    def stop(one, path):
      if len(saved) == 3:
        raise KeyboardInterrupt
      saved.append(path)
      save(one, path)

    with (mock.patch.object(predictions_lib, "save", stop),
          self.assertRaises(KeyboardInterrupt)):
      self._predict_mixed(config, others)
    # Killed between the two files of a method, whichever comes first.
    self.assertLen({path.name for path in saved}, 2)
    with (mock.patch.object(run, "_compute", side_effect=AssertionError),
          mock.patch.object(streams, "_advance", side_effect=AssertionError)):
      with self.assertRaises(AssertionError):
        self._predict_mixed(config, others)
    # What was begun is gathered; the streams had not begun.
    self.assertTrue(predictions_lib.exists(
        self.output / "predictions/digits/mta"))
    found = self._predict_mixed(config, others)
    for path in found.values():
      self.assertLen(predictions_lib.load(self._outside(path)).ids, 2)
    with (mock.patch.object(run, "iterate", side_effect=AssertionError),
          mock.patch.object(streams, "iterate", side_effect=AssertionError)):
      self.assertEqual(self._predict_mixed(config, others), found)
      # One that is lost is missed.
      for ending in (".npz", ".json"):
        lost = self._outside(found["mta"])
        lost.with_name(lost.name + ending).unlink()
      with self.assertRaises(AssertionError):
        self._predict_mixed(config, others)
    self.assertEqual(self._predict_mixed(config, others), found)
    self.assertLen(predictions_lib.load(self._outside(found["mta"])).ids, 2)

  def test_what_is_in_the_stream_is_part_of_the_identity(self):
    config, others = self._mixed()
    found = self._predict_mixed(config, others)
    identity = predictions_lib.settings(found["mta"])["identity"]
    self.assertEqual(identity["stream.outlier_share"], 0.4)
    self.assertEqual(identity["out_of_distribution.data.num_images"], 2)
    self.assertEqual(identity["data.num_images"], 3)
    with self.assertRaisesRegex(
        ValueError, "outlier_share: stored 0.4, asked 'nothing'"):
      self._predict(config)
    with self.assertRaisesRegex(
        ValueError, "out_of_distribution.data.ids: stored"):
      self._predict_mixed(config, image_sets.take(others, [1, 0]))
    # What lies there of other images counts by itself, too.
    config.stream.outlier_share = 0.5
    for path in found.values():
      for ending in (".npz", ".json"):
        path.with_name(path.name + ending).unlink()
    with self.assertRaisesRegex(ValueError, "stored 0.4, asked 0.5"):
      self._predict_mixed(config, others)

  def test_places_of_a_set_with_others_in_its_stream(self):
    config, _ = self._mixed()
    outside = load.images("shades", limit=10)
    own, beside = config_runs.places(
        config, "digits", self.images, outside=outside)
    self.assertEqual((own.name, own.images.ids), ("digits", self.images.ids))
    self.assertEqual(own.others.ids, outside.ids[:2])
    self.assertEqual(beside.name, "digits/out_of_distribution")
    self.assertEqual(beside.images.ids, own.others.ids)
    self.assertTrue(beside.in_stream)
    config.stream.outlier_share = 0.0
    own, beside = config_runs.places(
        config, "digits", self.images, outside=outside)
    self.assertIsNone(own.others)
    self.assertEqual((beside.images.ids, beside.in_stream),
                     (outside.ids, False))
    config.stream.outlier_share = 0.4
    own, = config_runs.places(
        config, "digits", self.images, outside=self.images)
    self.assertIsNone(own.others)

  def test_remarks_on_images_of_other_classes(self):
    config, _ = self._mixed()
    say = lambda outside: config_runs.remarks(
        config, {"digits": self.images}, outside)["digits"]
    self.assertEqual(
        say(load.images("shades", limit=10)),
        "digits: 2 images of shades are in its stream of 5, a share of 0.4; "
        "every score but those of detection is of its own images alone "
        "(stream.outlier_share).")
    config.stream.outlier_share = 0.9
    self.assertIn("10 images of shades are in its stream of 13, a share of "
                  "0.769, all that there are where 0.9 was asked for;",
                  say(load.images("shades", limit=10)))
    self.assertIn("as digits is the set itself", say(self.images))
    self.assertEqual(config_runs.num_others(config, {"a": self.images}), 27)

  @parameterized.parameters(
      ({"orders": 0}, "orders is 0, expected >= 1"),
      ({"orders": 2, "order": "given"}, "1 with --config.stream.order=given"),
      ({"orders": 9, "seed": 2**32 - 3}, "few enough for seeds"),
      ({"imbalance": 0.5}, "imbalance is 0.5, expected >= 1"),
      ({"outlier_share": 1.0}, r"outlier_share is 1.0, expected in \[0, 1\)"),
      ({"outlier_share": -0.1}, r"outlier_share is -0.1, expected in \[0, 1"),
      ({"outlier_share": 0.5}, "0.5, expected 0 without --config.data.out_of_"),
      ({"corrupted_share": 0.0}, r"share is 0.0, expected in \(0, 1\]"),
      ({"order": "hard"}, "'shuffled', 'given' or 'sorted'"))
  def test_streams_out_of_range(self, fields, message):
    config = _config()
    config.stream = config_lib.StreamConfig(**fields)
    with self.assertRaisesRegex(ValueError, message):
      config_lib.validate(config)

  @pytest.mark.slow
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
