"""What `jaxcal tune` saved under `jaxcal evaluate`: predictions, starts."""

import json
import pathlib
import shutil
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcal import predictions
from jaxcal import stages
from jaxcal.adapt.prompt import methods as prompt_methods
from jaxcal.clip import checkpoint
from jaxcal.clip import prompts
from jaxcal.data import image_set as image_sets
from jaxcal.posterior import laplace
from jaxcal.recalibration import dac
from jaxcal.testbed import sets
from jaxcal.testbed import shipped
from jaxcal.tuning import checkpoint as tuned
from jaxcal.tuning import methods
from jaxcal.tuning import predict
from jaxcal.tuning import presets
from jaxcal.tuning import tip_adapter
from tests.cli import command

_TEMPLATE = "a blurry photo of a {}."
# Without the name: one more would be a further set.
_SMALL = (*(flag for flag in command.SMALL if "data.name" not in flag),
          f"--config.data.template={_TEMPLATE}")
_BASE = ("--config.data.name=shapes", "--config.data.classes=base")
_PLAIN = ("--config.method.name=zero_shot",)
_ADDED = "kgcoop+zs_norm+dor"


class _Saved(parameterized.TestCase):
  """Tests that share untrained parameters of every method, with some noise."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    scratch = tempfile.TemporaryDirectory()
    cls.addClassCleanup(scratch.cleanup)
    cls.root = pathlib.Path(scratch.name)
    cls.model = checkpoint.load(shipped.folder())
    cls.images = sets.load("shapes")
    cls.names = cls.images.class_names[:9]

  @classmethod
  def _save(cls, name, *additions, seed=1, folder=None, **changes):
    """The folder tuned/shapes/METHOD, with this seed in it."""
    recipe = presets.recipe(name)
    spec = methods.Spec(
        name, additions, recipe.num_context, recipe.from_words)._replace(
            **changes)
    cache, labels = None, np.zeros(0, np.int64)
    if spec.kind.cached:
      labels = np.arange(len(cls.names)).repeat(2)
      width = cls.model.params["text_projection"]["kernel"].shape[1]
      cache = tip_adapter.make_cache(jax.random.normal(
          jax.random.key(5), (1, len(labels), width)), labels, len(cls.names))
    params = methods.build(spec, cls.model, cache).init(
        jax.random.key(seed), methods.prompts_of(
            spec, cls.model, cls.names, template=_TEMPLATE))
    leaves, structure = jax.tree.flatten(params)
    noisy = [leaf + 0.02 * jax.random.normal(jax.random.key(seed), leaf.shape)
             for leaf in leaves]
    folder = folder or cls.root / "tuned" / "shapes" / spec.name
    tuned.save(folder / f"seed-{seed}", tuned.Tuned(
        spec, jax.tree.unflatten(structure, noisy), cls.names, labels,
        {"model.fingerprint": cls.model.fingerprint, "data": "shapes",
         "seed": seed, "losses": [1.0]}))
    return folder

  def _folder(self, name):
    return pathlib.Path(self.create_tempdir().full_path, name)

  def _runs(self, *arguments, tool="evaluate", output=None):
    output = output or self._folder("run")
    status, printed, error = command.here(
        tool, *_SMALL, f"--output={output}", *arguments)
    self.assertEqual(status, 0, error)
    return output, printed

  def _fails(self, message, *arguments, tool="evaluate"):
    output = self._folder("run")
    status, printed, error = command.here(
        tool, *_SMALL, *_PLAIN, f"--output={output}", *arguments)
    self.assertEqual(status, 2, printed)
    self.assertRegex(error, message)
    self.assertNotIn("Traceback", error)
    self.assertFalse(output.exists())

  def _by_library(self, folder, predicted, images, seed=1):
    """What tuned parameters predict for the images of some predictions."""
    one = tuned.load(folder / f"seed-{seed}", self.model)
    taken = image_sets.take(
        images, [images.ids.index(image_id) for image_id in predicted.ids])
    logits, = predict.logits(
        self.model, taken._replace(class_names=predicted.class_names), [one],
        template=_TEMPLATE)
    return logits

  def _text_features(self, one, class_names):
    """Of a shared context, through the encoder that shares nothing."""
    sizes, context = self.model.config, jnp.asarray(one.params["context"])
    bank = prompts.prompt_bank(
        self.model.tokenizer, class_names, template="{}.",
        class_position=one.spec.class_position,
        num_context_tokens=len(context), context_length=sizes.context_length,
        eos_token_id=sizes.eos_token_id, crop=False)
    return prompts.context_encoder(sizes, self.model.params, bank)(context)


@pytest.mark.slow
class PredictionsTest(_Saved):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.folders = {name: cls._save(name) for name in methods.METHODS}
    cls.folders[_ADDED] = cls._save("kgcoop", "zs_norm", "dor")
    cls._save("coop", seed=2)
    cls.given = _tuned(*cls.folders.values())
    cls.output = cls.root / "run"
    status, cls.printed, error = command.here(
        "evaluate", *_SMALL, *_BASE, *_PLAIN, *cls.given,
        f"--output={cls.output}")
    assert status == 0, error

  def _predicted(self, name, place="shapes"):
    return predictions.load(self.output / "predictions" / place / name)

  @parameterized.parameters(*methods.METHODS, _ADDED)
  def test_every_method_predicts_as_the_library_does(self, name):
    predicted = self._predicted(f"{name}-1")
    self.assertEqual(predicted.class_names, self.names)
    self.assertLen(predicted.ids, 6)
    np.testing.assert_allclose(
        predicted.logits,
        self._by_library(self.folders[name], predicted, self.images),
        atol=1e-4)
    plain = self._predicted("zero_shot")
    self.assertEqual(predicted.ids, plain.ids)
    self.assertGreater(np.abs(predicted.logits - plain.logits).max(), 0.01)
    # What looks the shots up adds to the cosines.
    scale = np.exp(self.model.params["logit_scale"])
    self.assertEqual(predicted.settings.get("logit_scale"), None if (
        name.startswith("tip_adapter")) else float(scale))
    self.assertEqual(predicted.settings["method"], f"{name}-1")
    of = stages.of_settings(predicted.settings, "")
    self.assertEqual((of.label, of.tuned_seed), (f"{name}-1", 1))
    self.assertEqual(
        of.additions, ("zs_norm", "dor") if name == _ADDED else ())
    self.assertIn(f"{name}/seed-1 ",
                  "\n".join(predicted.settings["config.method.tuned"]))

  def test_report_has_them_and_a_summary_over_seeds(self):
    rows = {stages.of(row).label: row for row in map(json.loads, (
        self.output / "results.jsonl").read_text().splitlines())}
    self.assertLen(rows, len(self.folders) + 2)
    for name in rows:
      self.assertIn(f" {name} ", self.printed)
    self.assertIn("coop-2 - zero_shot", self.printed)
    page = (self.output / "report.html").read_text()
    self.assertIn(f"{_ADDED}-1", page)
    _, _, summary = self.printed.partition("Over seeds")
    both = np.array([[rows[f"coop-{seed}"][key] for seed in (1, 2)]
                     for key in ("accuracy", "ece", "nll")])
    percent = np.array([100, 100, 1])
    mean = percent * both.mean(1)
    std = percent * np.abs(both[:, 0] - both[:, 1]) / 2**.5
    line = next(line for line in summary.splitlines() if "| coop " in line)
    # Each with the interval over images, and that over images and seeds.
    cells = [
        rf"{_literal(form % mean[i])} \[\S+ \S+\] "
        rf"{_literal(f'+- {form % std[i]}')} \(\S+ \S+\)"
        for i, form in enumerate(("%.1f", "%.1f", "%.3f"))]
    self.assertRegex(" ".join(line.split()), r"\| shapes \| coop \| 2 \| " +
                     r" \| ".join(cells))
    # Of the others there is one seed.
    self.assertNotIn("| kgcoop ", summary.partition("Paired")[0])

  def test_other_sets_other_classes_and_all_that_goes_with_a_method(self):
    output, printed = self._runs(
        "--config.data.name=digits", "--config.data.classes=new",
        "--config.data.out_of_distribution=shades",
        "--config.temperature.split=validation",
        "--config.temperature.limit=6", *_PLAIN,
        *_tuned(self.folders["coop"],
                self.folders["clip_adapter"] / "seed-1.safetensors"))
    images, folder = sets.load("digits"), output / "predictions" / "digits"
    predicted = predictions.load(folder / "coop-2")
    self.assertEqual(predicted.class_names, images.class_names[5:])
    np.testing.assert_array_equal(
        [images.labels[images.ids.index(i)] - 5 for i in predicted.ids],
        predicted.labels)
    np.testing.assert_allclose(predicted.logits, self._by_library(
        self.folders["coop"], predicted, images, seed=2), atol=1e-4)
    scaled = predictions.load(folder / "clip_adapter-1+temperature")
    np.testing.assert_allclose(
        scaled.logits * scaled.settings["temperature"],
        predictions.load(folder / "clip_adapter-1").logits, rtol=1e-4)
    outside = predictions.load(folder / "out_of_distribution" / "coop-1")
    self.assertEqual(outside.class_names, predicted.class_names)
    _, _, detection = printed.partition("In and out of distribution")
    self.assertIn("| coop-1 ", detection)
    self.assertIn("| coop+temperature ", printed)

  def test_images_of_other_classes_that_are_in_the_stream_of_methods(self):
    given = ("--config.data.name=digits", "--config.method.name=zero_shot,tda",
             "--config.data.out_of_distribution=shades",
             *_tuned(self.folders["coop"] / "seed-1.safetensors"))
    apart, _ = self._runs(*given)
    output, printed = self._runs(*given, "--config.stream.outlier_share=0.4")
    of = lambda run, name: predictions.load(
        run / "predictions" / "digits" / name)
    images = len(of(apart, "coop-1").ids)
    for name in ("coop-1", "zero_shot"):
      np.testing.assert_allclose(
          of(output, name).logits, of(apart, name).logits, atol=1e-4)
      outside = of(output, f"out_of_distribution/{name}")
      self.assertEqual(
          outside.ids, of(output, "out_of_distribution/tda").ids)
      self.assertLen(outside.ids, round(images * 0.4 / 0.6))
      whole = of(apart, f"out_of_distribution/{name}")
      rows = [whole.ids.index(one) for one in outside.ids
              if one in whole.ids]
      np.testing.assert_allclose(
          outside.logits[:len(rows)], whole.logits[rows], atol=1e-4)
    self.assertIn("| coop-1 ", printed.partition("In and out of")[2])
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*.npz")}
    self._runs(*given, "--config.stream.outlier_share=0.4", output=output)
    for path, written in before.items():
      if "predictions" in path.parts:
        self.assertEqual(path.stat().st_mtime_ns, written, path)

  def test_evidence_for_recalibrators_of_new_classes(self):
    asked = ("text_features", "zero_shot_text_features", "base_text_features",
             "base_zero_shot_text_features", "zero_shot_logits")
    arguments = ("--config.data.name=shapes", "--config.data.classes=new",
                 *_PLAIN, *_tuned(self.folders["coop"]))
    output, _ = self._runs(*arguments)
    path = output / "predictions" / "shapes" / "coop-1"
    without = predictions.load(path)
    self.assertEqual(without.evidence, {})
    # What is there without it is done again, and is the same.
    self._runs(*arguments, f"--config.evidence={','.join(asked)}",
               output=output)
    one = predictions.load(path)
    np.testing.assert_allclose(one.logits, without.logits, atol=1e-4)
    self.assertEqual(set(one.evidence), set(asked))
    self.assertLen(one.evidence["base_text_features"], 9)
    status, _, error = command.here(
        "recalibrate", output, "--recalibrator=dac",
        f"--output={output / 'dac'}")
    self.assertEqual(status, 0, error)
    self.assertIn("shapes, zero_shot: left out, dac needs text_features", error)
    factors = dac.factors(*(one.evidence[name] for name in asked[:4]))
    np.testing.assert_allclose(
        predictions.load(
            output / "dac" / "predictions" / "shapes" / "coop-1+dac").logits,
        one.logits * factors[one.logits.argmax(1)][:, None], rtol=1e-5)

  def test_classes_of_the_training_are_found_in_another_set(self):
    """By name: a domain of the same classes, and some of them alone."""
    folder = self.folders["taskres"]
    output, _ = self._runs(
        "--config.data.name=shapes-blur", "--config.data.classes=base",
        *_PLAIN, *_tuned(folder))
    predicted = predictions.load(
        output / "predictions" / "shapes-blur" / "taskres-1")
    np.testing.assert_allclose(predicted.logits, self._by_library(
        folder, predicted, sets.load("shapes-blur")), atol=1e-4)

  @parameterized.parameters(
      ("taskres", "digits", "all", "10 of 10"),
      ("tip_adapter_f", "shapes", "all", "9 of 18"),
      ("coop_class_specific", "shapes", "new", "9 of 9"))
  def test_methods_for_their_own_classes_alone(self, name, data, which, count):
    self._fails(
        f"{name}-1 cannot predict {data}: {count} classes were not among "
        "the 9 of training", f"--config.data.name={data}",
        f"--config.data.classes={which}", *_tuned(self.folders[name]))

  def test_errors_come_before_the_work(self):
    coop = self.folders["coop"]
    fails = lambda message, *arguments: self._fails(message, *_BASE, *arguments)
    fails("no tuned parameters in /nowhere; expected a folder",
          *_tuned("/nowhere"))
    fails("no tuned parameters in", *_tuned(self.create_tempdir().full_path))
    fails("no tuned parameters in .*seed-9",
          *_tuned(coop / "seed-9.safetensors"))
    fails("two tuned parameters have the name coop-1: .*seed-1.safetensors",
          *_tuned(coop, coop / "seed-1.safetensors"))
    fails("classes is 'old', expected 'all', 'base' or 'new'",
          "--config.data.classes=old")
    fails("expected 'all' beside --config.data.store",
          "--config.data.store=features")
    self._fails("a store does not have", _BASE[0], *_tuned(coop),
                "--config.data.store=some")


@pytest.mark.slow
class DryRunTest(_Saved):

  def test_views_of_tuned_parameters_count(self):
    coop, maple = self._save("coop"), self._save("maple")
    self._save("coop", seed=2)
    output, printed = self._runs(
        *_BASE, *_PLAIN, *_tuned(coop, maple), "--dry_run")
    self.assertFalse(output.exists())
    # 6 images in 8 views; features of the clean ones, which the seeds of CoOp
    # share; and these views once more, through the prompts of MaPLe.
    self.assertIn("image tower: 60; ", printed)
    self.assertRegex(printed, "zero_shot, coop-1, coop-2, maple-1 ")
    self._runs(*_BASE, *_PLAIN, *_tuned(coop), output=output)
    _, printed = self._runs(
        *_BASE, *_PLAIN, *_tuned(coop, maple), "--dry_run", output=output)
    self.assertIn("image tower: 6; ", printed)


@pytest.mark.slow
class StartTest(_Saved):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.coop = cls._save("coop", class_position="middle")
    cls.given = (f"--config.method.context={cls.coop}/seed-1.safetensors",
                 *_BASE)

  def _copy(self):
    folder = self._folder("coop")
    shutil.copytree(self.coop, folder)
    return folder

  def test_tuning_and_posterior_begin_with_it(self):
    folder = self._folder("posterior")
    folder.mkdir()
    tiny = lambda kernel: laplace.Layer(
        *(1e-5 * jnp.eye(width) for width in kernel.shape))
    laplace.save(folder / "posterior", laplace.Posterior(
        tiny(self.model.params["visual_projection"]["kernel"]),
        tiny(self.model.params["text_projection"]["kernel"])), {})
    output, _ = self._runs(
        *self.given, "--config.method.name=zero_shot,soc",
        f"--config.posterior.folder={folder}",
        *_tuned(self.coop))
    found = lambda name: predictions.load(
        output / "predictions" / "shapes" / name)
    start, soc = found("zero_shot"), found("soc")
    expected = self._by_library(self.coop, start, self.images)
    np.testing.assert_allclose(start.logits, expected, atol=1e-4)
    np.testing.assert_allclose(found("coop-1").logits, expected, atol=1e-4)
    # One step of AdamW moves every number by the learning rate, and there are
    # as many as the context has; the template's would be a quarter of them.
    one = tuned.load(self.coop / "seed-1", self.model)
    np.testing.assert_allclose(
        soc.info["context_shift"],
        5e-3 * one.params["context"].size**.5, rtol=0.01)
    features = self._text_features(one, start.class_names)
    regulariser = prompt_methods.Soc().objective().regulariser
    np.testing.assert_allclose(
        soc.info["regulariser"], np.full(6, regulariser(features)), rtol=1e-3)
    self.assertGreater(np.abs(soc.logits - start.logits).max(), 0.01)
    # With next to no variance, the posterior's mean is the prediction itself.
    for name, predicted in (("zero_shot", start), ("soc", soc)):
      np.testing.assert_allclose(
          found(f"{name}+full").logits, predicted.logits, atol=1e-2)
    # Again, with one file lost: that one is computed, from stored features.
    # The folder of the context may move, its content may not change.
    lost, kept = (output / "predictions" / "shapes" / f"{name}.npz"
                  for name in ("coop-1", "zero_shot"))
    before, content = kept.stat().st_mtime_ns, lost.read_bytes()
    lost.unlink()
    moved, arguments = self._copy(), (
        *self.given[1:], "--config.method.name=zero_shot,soc",
        f"--config.posterior.folder={folder}")
    path = f"{moved}/seed-1.safetensors"
    self._runs(*arguments, f"--config.method.context={path}",
               *_tuned(path), output=output)
    self.assertEqual(kept.stat().st_mtime_ns, before)
    self.assertEqual(lost.read_bytes(), content)
    self.assertNotEmpty(list((output / "features" / "shapes").glob("*.npz")))
    self._save("coop", folder=moved, class_position="front")
    status, _, error = command.here(
        "evaluate", *_SMALL, *arguments, f"--output={output}",
        f"--config.method.context={path}", *_tuned(path))
    self.assertEqual(status, 2)
    self.assertRegex(error, r"prompt.context: stored 'coop/seed-1 \w{16}'")

  def test_sweep_begins_with_it(self):
    path = self.given[0].partition("=")[2]
    output, _ = self._runs(
        *_BASE, f"--sweep=method.context=template,{path}", *_PLAIN,
        tool="sweep")
    found = [predictions.load(path.with_suffix("")) for path in sorted(
        (output / "predictions").rglob("*.npz"))]
    expected = self._by_library(self.coop, found[0], self.images)
    differences = sorted(
        float(np.abs(one.logits - expected).max()) for one in found)
    self.assertLen(differences, 2)
    self.assertLess(differences[0], 1e-4)
    self.assertGreater(differences[1], 0.01)
    # Not an axis: the sweep is of one context.
    output, _ = self._runs(
        *self.given, "--sweep=method.name=zero_shot", tool="sweep")
    status, _, error = command.here(
        "sweep", *_SMALL, *_BASE, "--sweep=method.name=zero_shot",
        f"--output={output}")
    self.assertEqual(status, 2)
    self.assertRegex(error, "prompt.context: stored 'coop/seed-1 .*, asked "
                     "'template'")

  @parameterized.parameters(
      ("cocoop", "its context is another one for every image"),
      ("maple", "it has prompts in deeper layers"),
      ("promptsrc", "it has prompts in deeper layers"),
      ("coop_class_specific", "its contexts belong to a class"),
      ("taskres", "it has no context"),
      ("clip_adapter", "it has no context.*--config.method.tuned=.*seed-1"))
  def test_contexts_that_are_no_start(self, name, message):
    folder = self._save(name)
    given = f"--config.method.context={folder}/seed-1.safetensors"
    self._fails(message, *_BASE, given)
    if name == "cocoop":
      self._fails(message, *_BASE, given, "--sweep=method.name=zero_shot",
                  tool="sweep")

  def test_files_that_are_not_right(self):
    fails = lambda message, folder, field="context": self._fails(
        message, *_BASE, f"--config.method.{field}={folder}/seed-1.safetensors")
    folder = self._copy()
    (folder / "seed-1.json").unlink()
    fails("no .*seed-1.json; `jaxcal tune` writes", folder)
    fails("no .*seed-1.json; `jaxcal tune` writes", folder, field="tuned")
    folder = self._copy()
    content = (folder / "seed-1.safetensors").read_bytes()
    (folder / "seed-1.safetensors").write_bytes(content[:99])
    fails("seed-1.safetensors is not the file that .*seed-1.json describes",
          folder)
    folder = self._copy()
    about = json.loads((folder / "seed-1.json").read_text())
    about["model.fingerprint"] = "another"
    (folder / "seed-1.json").write_text(json.dumps(about))
    fails("seed-1.json is damaged.*If it was changed on purpose, remove its "
          "'sha256_json'", folder)
    del about["sha256_json"]
    (folder / "seed-1.json").write_text(json.dumps(about))
    fails("was tuned for the model with the fingerprint another", folder)
    self._fails("no .*seed-7.safetensors; `jaxcal tune` writes", *_BASE,
                f"--config.method.context={folder}/seed-7.safetensors")
    self._fails("context is 'mine', expected 'template', 'fpp' or the path",
                "--config.method.context=mine")


@pytest.mark.slow
class AdapterTest(_Saved):
  """Test-time methods on the features of a tuned adapter."""

  @parameterized.parameters("clip_adapter", "taskres")
  def test_methods_begin_with_it(self, name):
    folder = self._save(name)
    output, _ = self._runs(
        *_BASE, f"--config.method.adapter={folder}/seed-1.safetensors",
        "--config.method.name=zero_shot,zero,tda,onzeta", "--config.evidence="
        "image_features,zero_shot_text_features,zero_shot_logits")
    found = {one: predictions.load(output / "predictions" / "shapes" / one)
             for one in ("zero_shot", "zero", "tda", "onzeta")}
    start = found["zero_shot"]
    expected = self._by_library(folder, start, self.images)
    np.testing.assert_allclose(start.logits, expected, atol=1e-4)
    np.testing.assert_allclose(
        start.evidence["zero_shot_logits"], expected, atol=1e-4)
    scale = np.exp(self.model.params["logit_scale"])
    np.testing.assert_allclose(
        scale * start.evidence["image_features"] @
        start.evidence["zero_shot_text_features"].T, expected, atol=1e-3)
    # The first image of a stream finds nothing in TDA's caches but itself.
    alone = found["tda"].logits - start.logits
    self.assertTrue((np.abs(alone - 2 * np.eye(9)[
        start.logits.argmax(-1)]).max(-1) < 1e-3).any())

  def test_stored_features_give_the_same(self):
    """Their norm is lost, which CLIP-Adapter does not need."""
    folder = self._save("clip_adapter")
    store = self._folder("store")
    status, _, error = command.here(
        "features", *command.small("features"),
        "--config.data.name=shapes", f"--store={store}")
    self.assertEqual(status, 0, error)
    given = (f"--config.method.adapter={folder}/seed-1.safetensors",
             "--config.data.name=shapes", "--config.method.name=zero_shot,tpt")
    found = [predictions.load(self._runs(*given, *more)[0] / "predictions" /
                              "shapes" / "tpt")
             for more in ((), (f"--config.data.store={store}",))]
    self.assertGreater(found[0].info["context_shift"].min(), 0)
    # Stored in half precision.
    np.testing.assert_allclose(found[0].logits, found[1].logits, atol=0.1)

  def test_prompts_are_those_of_its_training(self):
    folder = self._save("clip_adapter")
    about = json.loads((folder / "seed-1.json").read_text())
    del about["sha256_json"]
    (folder / "seed-1.json").write_text(json.dumps(
        about | {"identity": {"prompt.template": "{}."}}))
    output, _ = self._runs(
        *_BASE, *_PLAIN,
        f"--config.method.adapter={folder}/seed-1.safetensors")
    start = predictions.load(output / "predictions" / "shapes" / "zero_shot")
    one = tuned.load(folder / "seed-1", self.model)
    taken = image_sets.take(
        self.images, [self.images.ids.index(one) for one in start.ids])
    expected, = predict.logits(
        self.model, taken._replace(class_names=start.class_names), [one],
        template="{}.")
    np.testing.assert_allclose(start.logits, expected, atol=1e-4)

  def test_another_adapter_is_another_run(self):
    first, second = self._save("taskres"), self._folder("taskres")
    self._save("taskres", folder=second, seed=1)
    given = lambda folder: (
        *_BASE, *_PLAIN,
        f"--config.method.adapter={folder}/seed-1.safetensors")
    output, _ = self._runs(*given(first))
    self._runs(*given(second), output=output)  # the same, elsewhere
    self._save("taskres", folder=second, seed=3)
    status, _, error = command.here(
        "evaluate", *_SMALL, *_BASE, *_PLAIN, f"--output={output}",
        f"--config.method.adapter={second}/seed-3.safetensors")
    self.assertEqual(status, 2)
    self.assertRegex(error, "adapter: stored 'taskres/seed-1 ")
    status, _, error = command.here(
        "evaluate", *_SMALL, *_BASE, *_PLAIN, f"--output={output}")
    self.assertEqual(status, 2)
    self.assertRegex(error, "adapter: stored 'taskres/seed-1 ")

  def test_sweep_stands_on_it(self):
    folder = self._save("clip_adapter")
    path = f"{folder}/seed-1.safetensors"
    output, _ = self._runs(
        *_BASE, f"--sweep=method.adapter=none,{path}", *_PLAIN, tool="sweep")
    found = [predictions.load(one.with_suffix("")) for one in sorted(
        (output / "predictions").rglob("*.npz"))]
    expected = self._by_library(folder, found[0], self.images)
    differences = sorted(
        float(np.abs(one.logits - expected).max()) for one in found)
    self.assertLen(differences, 2)
    self.assertLess(differences[0], 1e-4)
    self.assertGreater(differences[1], 0.01)

  @parameterized.parameters("coop", "tip_adapter", "cocoop", "maple")
  def test_what_is_no_map_of_features(self, name):
    folder = self._save(name)
    self._fails(
        rf"adapter: .*seed-1.* is of {name}, which does not map.*"
        "--config.method.context", *_BASE,
        f"--config.method.adapter={folder}/seed-1.safetensors")

  def test_what_does_not_go_with_it(self):
    folder = self._save("taskres")
    given = f"--config.method.adapter={folder}/seed-1.safetensors"
    self._fails("taskres.* cannot predict shapes: .*class",
                "--config.data.name=shapes", given)
    self._fails(
        "method.adapter is .*none beside --config.method.context", *_BASE,
        given, "--config.method.context=fpp")
    self._fails("folder is 'somewhere', expected none beside", *_BASE, given,
                "--config.posterior.folder=somewhere")
    self._fails("tpt, soc would tune prompts, of which .*taskres.*clip_adapter",
                *_BASE, given, "--config.method.name=tpt,soc")
    self._fails("dynaprompt would tune prompts", *_BASE, given,
                "--config.method.name=dynaprompt")
    behind = self._save("clip_adapter") / "seed-1.safetensors"
    self._fails("ttl adapts the image tower, but .* comes behind it", *_BASE,
                f"--config.method.adapter={behind}",
                "--config.method.name=ttl")
    self._fails("adapter is 'mine', expected the path", *_BASE,
                "--config.method.adapter=mine")


def _tuned(*paths):
  return [f"--config.method.tuned={path}" for path in paths]


def _literal(text):
  return text.replace("+", r"\+").replace(".", r"\.")


if __name__ == "__main__":
  absltest.main()
