"""`jaxcal posterior`, and what the other commands do with a posterior."""

import io
import json
import pathlib
import random
import re
import shutil
import sys
import tarfile
import tempfile
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest
from sklearn import metrics

from jaxcal import parts
from jaxcal import predictions
from jaxcal import run
from jaxcal import stages
from jaxcal import tasks
from jaxcal.adapt import methods
from jaxcal.adapt.prompt import bayesian
from jaxcal.clip import checkpoint
from jaxcal.clip import towers
from jaxcal.posterior import curvature
from jaxcal.posterior import files
from jaxcal.posterior import finetuning
from jaxcal.posterior import fit
from jaxcal.posterior import laplace
from jaxcal.posterior import model as models
from jaxcal.posterior import predictive
from jaxcal.testbed import pairs as testbed_pairs
from jaxcal.testbed import sets
from jaxcal.testbed import shipped
from jaxcal.typing import Pooled
from tests.cli import command

_FILE = "--config=configs/bayesvlm.py"
_CONFIG = (_FILE, "--config.batch_size=2")
# 60 pairs: of blocks of 24, the last one is ragged.
_PAIRS = ("--num_pairs=60", "--candidates=24")
_SMALL = (*_CONFIG, "--config.data.name=digits", "--config.data.limit=6",
          "--config.temperature.limit=10", "--config.metrics.num_resamples=50")
_SWEPT = tuple(flag for flag in _SMALL if "temperature" not in flag)
_SELECT = ("--strategies=random,epig_online", "--budgets=2,4", "--seeds=2",
           "--pool_limit=12", "--epochs=2", "--samples=4",
           "--learning_rate=0.01")


def _posterior(folder):
  return f"--config.posterior.folder={folder}"


def _fit(folder, *extra):
  return ("posterior", "fit", *_CONFIG, *_PAIRS, _posterior(folder), *extra)


def _contents(folder, pattern="*"):
  return {path.relative_to(folder): path.read_bytes()
          for path in sorted(folder.rglob(pattern)) if path.is_file()}


def _rows(output):
  return [json.loads(line) for line in
          (output / "results.jsonl").read_text().splitlines()]


class _Fitted(parameterized.TestCase):
  """Tests that share one posterior."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.root = tempfile.TemporaryDirectory()
    cls.addClassCleanup(cls.root.cleanup)
    cls.folder = pathlib.Path(cls.root.name, "posterior")
    status, cls.printed, error = command.here(*_fit(cls.folder))
    assert status == 0, error

  def _folder(self, name):
    return pathlib.Path(self.create_tempdir().full_path, name)

  def _copy(self):
    folder = self._folder("copy")
    shutil.copytree(self.folder, folder)
    return folder

  def _runs(self, *arguments, num_devices=1):
    status, printed, error = command.here(
        *arguments, num_devices=num_devices)
    self.assertEqual(status, 0, error)
    return printed

  def _fails(self, message, *arguments, num_devices=1):
    status, printed, error = command.here(
        *arguments, num_devices=num_devices)
    self.assertEqual(status, 2, printed)
    self.assertRegex(error, message)
    self.assertNotIn("Traceback", error)


class FitTest(_Fitted):

  @pytest.mark.slow
  def test_factors_are_those_of_the_pairs(self):
    model = checkpoint.load(shipped.folder())
    pairs = testbed_pairs.load(60)
    pixels = np.stack([
        np.asarray(Image.fromarray(pairs.read(i)).resize(
            (48, 48), Image.Resampling.BICUBIC)) for i in range(60)])
    images = model.pooled(pixels)
    length = model.config.context_length
    ids = np.zeros((60, length), np.int32)
    for row, caption in zip(ids, pairs.captions):
      tokens = model.tokenizer(caption)["input_ids"]
      row[:len(tokens)] = tokens
    ends = (ids == model.config.eos_token_id).argmax(1)
    texts = towers.pooled_text(
        model.config, model.params,
        towers.token_embeddings(model.params, ids), jnp.asarray(ends))
    maps = {"image": towers.image_projection(model.config, model.params),
            "text": towers.text_projection(model.config, model.params)}
    embeddings = {
        "image": towers.project(
            images.activations, maps["image"], images.residual),
        "text": towers.project(texts, maps["text"])}
    scale = jnp.exp(model.params["logit_scale"])
    found = files.read(self.folder)
    for side, activations, other in (
        ("image", images.activations, "text"), ("text", texts, "image")):
      expected = curvature.kronecker_factors(
          activations, embeddings[side], embeddings[other], scale, block=24)
      for name in ("a", "b"):
        want = np.asarray(getattr(expected, name))
        np.testing.assert_allclose(
            getattr(found.factors[side], name), want,
            atol=5e-3 * np.abs(want).max())
        np.testing.assert_allclose(
            found.spectra[side]["ab".index(name)],
            np.clip(np.linalg.eigvalsh(
                np.float64(getattr(found.factors[side], name))), 0, None),
            atol=1e-5 * np.abs(want).max())
      self.assertEqual(found.factors[side].num_pairs, 60)

  def test_what_it_prints_and_writes(self):
    self.assertRegex(self.printed, r"\| image +\| 128 +\| 128 +\| 60 ")
    self.assertIn("left out: nothing", self.printed)
    self.assertEqual(
        sorted(path.name for path in self.folder.iterdir()),
        ["factors.npz", "manifest.json", "posterior.json", "posterior.npz",
         "spectra.npz", "spectra.svg"])
    manifest = json.loads((self.folder / "manifest.json").read_text())
    self.assertEqual((manifest["pairs"], manifest["identity"]["candidates"],
                      manifest["num_unusable"]), ("scenes", 24, 0))
    # The posterior is that of the factors, with the count that is recorded.
    posterior, about = laplace.load(self.folder / "posterior")
    factors = files.read(self.folder).factors["text"]
    self.assertEqual(about["pseudo_count"], 4)
    precision = (2 * np.float64(factors.b) +
                 np.sqrt(about["prior_precision"]["text"]) * np.eye(128))
    np.testing.assert_allclose(
        posterior.text.b_inv @ precision, np.eye(128), atol=1e-4)

  @pytest.mark.slow
  def test_killed_at_random_moments_and_resumed_is_the_undisturbed_fit(self):
    folder, rng = self._folder("killed"), random.Random(0)
    for _ in range(command.KILLS):
      command.kill_after(rng.uniform(4, 14), *_fit(folder))
    command.run_timed(*_fit(folder))
    self.assertEqual(_contents(folder, "*.npz"),
                     _contents(self.folder, "*.npz"))
    self.assertFalse((folder / "work").exists())

  @pytest.mark.slow
  def test_stopped_at_every_file_and_resumed(self):
    whole, folder = self._folder("whole"), self._folder("stopped")
    self._runs(*_fit(whole))
    for runs in range(100):
      # Each run gets one file further than the last.
      with command.stopped_at_write(2) as writes:
        command.here(*_fit(folder))
      if not writes[1]:
        break
      if runs > 8:  # all that is left is written together
        self._runs(*_fit(folder))
        break
    self.assertGreater(runs, 4)
    for name in ("factors.npz", "spectra.npz", "posterior.npz",
                 "posterior.json", "spectra.svg"):
      self.assertEqual((folder / name).read_bytes(),
                       (whole / name).read_bytes(), name)

  @pytest.mark.slow
  def test_again_is_at_once_and_other_pairs_are_refused(self):
    folder = self._copy()
    with mock.patch.object(curvature, "add", side_effect=AssertionError):
      printed = self._runs(*_fit(folder))
    self.assertEqual(printed.replace(str(folder), ""),
                     self.printed.replace(str(self.folder), ""))
    self.assertEqual(_contents(folder, "*.npz"),
                     _contents(self.folder, "*.npz"))
    self._fails(r"another posterior:(.|\n)*pairs.number: stored 60, asked 50",
                *_fit(folder, "--num_pairs=50"))
    self._fails("candidates: stored 24, asked 30(.|\n)*--overwrite",
                *_fit(folder, "--candidates=30"))
    self.assertEqual(_contents(folder, "*.npz"),
                     _contents(self.folder, "*.npz"))
    # A mistake beside --overwrite costs nothing.
    self._fails("no file", *_fit(folder, "--overwrite", "--pairs=none.csv"))
    self.assertTrue((folder / "posterior.npz").exists())
    self._runs(*_fit(folder, "--overwrite", "--num_pairs=10"))
    self.assertEqual(files.read(folder).factors["image"].num_pairs, 10)

  @parameterized.parameters("notes.txt", "work/notes.txt", "work/mine/x.npz")
  @pytest.mark.slow
  def test_what_is_not_its_own_is_not_removed(self, name):
    folder = self._copy()
    (folder / name).parent.mkdir(exist_ok=True, parents=True)
    (folder / name).write_text("mine")
    self._runs(*_fit(folder))
    self.assertEqual((folder / name).read_text(), "mine")
    status, _, error = command.here(
        *_fit(folder, "--overwrite", "--num_pairs=10"))
    self.assertEqual(status, 0, error)
    self.assertIn(f"jaxcal: kept in {folder}, not written by a run of this "
                  f"kind: {name}\n", error)
    self.assertEqual(files.read(folder).factors["image"].num_pairs, 10)
    self.assertEqual((folder / name).read_text(), "mine")
    self.assertEqual((folder / "work").exists(), "work" in name)

  @pytest.mark.slow
  def test_tars_with_a_broken_image_and_a_missing_caption(self):
    root = self._folder("tars")
    root.mkdir()
    source = testbed_pairs.load(8)
    with tarfile.open(root / "00000.tar", "w") as tar:
      for i in range(8):
        content = io.BytesIO()
        Image.fromarray(source.read(i)).save(content, "png")
        content = content.getvalue()
        if i == 3:
          content = content[:len(content) // 2]
        _add(tar, f"{i:03}.png", content)
        if i != 5:
          _add(tar, f"{i:03}.txt", source.captions[i].encode())
    folder = self._folder("fit")
    printed = self._runs(*_fit(folder, f"--pairs={root}", "--candidates=4"))
    self.assertIn("left out: 1 no caption, 1 unusable image", printed)
    self.assertRegex(printed, "left out: 00000.tar/003: ")
    manifest = json.loads((folder / "manifest.json").read_text())
    self.assertEqual(manifest["left_out"], {"no caption": 1})
    self.assertEqual(manifest["num_unusable"], 1)
    self.assertEqual(files.read(folder).factors["text"].num_pairs, 6)
    # What is left in a CSV file, on several devices: the same factors.
    for i in range(8):
      Image.fromarray(source.read(i)).save(root / f"{i}.png")
    (root / "some.csv").write_text("path,caption\n" + "".join(
        f"{i}.png,{source.captions[i]}\n" for i in range(8) if i not in (3, 5)))
    listed = self._folder("listed")
    self._runs(*_fit(listed, f"--pairs={root / 'some.csv'}", "--candidates=4"),
               num_devices=4)
    for side, factors in files.read(listed).factors.items():
      for name in ("a", "b"):
        want = getattr(files.read(folder).factors[side], name)
        np.testing.assert_allclose(
            getattr(factors, name), want, atol=1e-5 * np.abs(want).max())

  @pytest.mark.slow
  def test_mostly_unusable_images_end_the_fit_early(self):
    root = self._folder("broken")
    root.mkdir()
    with tarfile.open(root / "0.tar", "w") as tar:
      for i in range(150):
        _add(tar, f"{i}.jpg", b"\xff\xd8 nothing")
        _add(tar, f"{i}.txt", b"a photo")
    arguments = _fit(self._folder("fit"), f"--pairs={root}", "--num_pairs=999")
    self._fails("only 0 of 150 images of broken could be read", *arguments)
    with mock.patch.object(fit, "_FIRST_PAIRS", 20):
      self._fails("only 0 of 64 images of broken could be read", *_fit(
          self._folder("fit"), f"--pairs={root}", "--num_pairs=999"),
                  num_devices=4)

  def test_labels_as_captions(self):
    folder = self._folder("fit")
    printed = self._runs(*_fit(
        folder, "--pairs=labels", "--config.data.name=digits",
        "--num_pairs=12", "--candidates=6"))
    self.assertIn("| 12 ", printed)
    self.assertEqual(files.read(folder).manifest["pairs"], "digits")

  @pytest.mark.slow
  def test_chosen_by_validation(self):
    folder = self._copy()
    printed = self._runs(
        *_fit(folder, "--choose=validation", "--pseudo_counts=1,10"),
        "--config.data.name=digits", "--config.temperature.limit=20")
    cells = re.findall(r"\| ([\d.]+) +\| x ([\d.]+) +\| ([\d.]+) +\|", printed)
    self.assertLen(cells, 8)
    count, factor, _ = min(cells, key=lambda cell: float(cell[2]))
    _, about = laplace.load(folder / "posterior")
    self.assertEqual(about["pseudo_count"], float(count))
    evidence = files.maximise_evidence(files.read(folder), float(count))
    for side, value in about["prior_precision"].items():
      self.assertAlmostEqual(
          value / (float(factor) * evidence.prior_precision[side]), 1)

  @parameterized.parameters(
      (("--pseudo_counts=0",), "--pseudo_counts are .* expected numbers > 0"),
      (("--pseudo_counts=1,nan",), "--pseudo_counts are"),
      (("--pseudo_counts=many",), "--pseudo_counts: could not convert"),
      (("--candidates=1",), "--candidates is 1, expected at least 2"),
      (("--num_pairs=1",), "--num_pairs is 1, expected at least 2"),
      (("--pairs=laion/{00000..00003}.tar",), "no tar matches laion/00000.tar"),
      (("--pairs=nowhere",), "no tar matches nowhere"),
      (("--pairs=tfds:coco_captions",), "--config.data.root="),
      (("--choose=validation", "--config.temperature.split=test"),
       "a split other than --config.data.split"),
      (("--choose=validation", "--config.temperature.split=none"),
       "--config.temperature.split="),
      (("--choose=guess",), "--choose=guess"),
      (("--config.posterior.pseudo_count=0",), "pseudo_count is 0.*> 0"),
      (("--config.posterior.pseudo_count=-4",), "pseudo_count is -4.*> 0"),
      (("--config.posterior.folder=none",), "name the folder to fill"),
      (("--output=x",), "--output has no effect on `jaxcal posterior fit`"),
      (("--coordinator=localhost:1",),
       "--coordinator=HOST:PORT needs --num_processes and --process_id"))
  def test_errors_come_before_the_work(self, arguments, message):
    folder = self._folder("fit")
    self._fails(message, *_fit(folder, *arguments))
    self.assertFalse(folder.exists())

  @pytest.mark.slow
  def test_damaged_files_and_the_way_out(self):
    folder = self._copy()
    (folder / "factors.npz").write_bytes(b"PK\x03\x04 nothing")
    self._fails("is damaged.*--overwrite", *_fit(folder))
    (folder / "manifest.json").write_text("{")
    self._fails("manifest.json is damaged.*--overwrite", *_fit(folder))


class UseTest(_Fitted):

  @pytest.mark.slow
  def test_evaluate(self):
    output = self._folder("run")
    arguments = (
        *_SMALL, _posterior(self.folder), "--config.views.number=8",
        "--config.method.name=zero_shot,soc",
        "--config.method.selection_fraction=0.25",
        "--config.data.out_of_distribution=shapes", f"--output={output}")
    printed = self._runs("evaluate", *arguments)
    for heading in ("Uncertainty, of the median image",
                    "In and out of distribution", "Paired differences"):
      self.assertIn(heading, printed)
    names = [*run.output_names(
        {name: methods.method(name) for name in ("zero_shot", "soc")},
        with_posterior=True), "zero_shot+temperature", "soc+temperature"]
    self.assertLen(names, 4 + 2 * len(bayesian.FORMS))
    folder = output / "predictions" / "digits"
    predicted = {name: predictions.load(folder / name) for name in names}
    rows = {stages.of(row).label: row for row in _rows(output)}
    self.assertEqual(list(rows), names)
    for name, one in predicted.items():
      self.assertAlmostEqual(
          rows[name]["accuracy"],
          np.mean(one.logits.argmax(-1) == one.labels))
    for method in ("zero_shot", "soc"):
      plain = predicted[method].logits
      scaled = predicted[f"{method}+temperature"]
      factor = scaled.settings["temperature"]
      np.testing.assert_allclose(scaled.logits * factor, plain, rtol=1e-5)
      # It is the best one for other images.
      seen = predictions.load(folder / "validation" / method)
      self.assertLen(seen.ids, 10)
      self.assertFalse(set(seen.ids) & set(scaled.ids))
      losses = [_nll(seen.logits / (step * factor), seen.labels)
                for step in (1, 0.98, 1.02)]
      self.assertEqual(losses.index(min(losses)), 0)
      for form in bayesian.FORMS:
        uncertain = predicted[f"{method}+{form}"]
        self.assertGreater(np.abs(uncertain.logits - plain).max(), 0.01)
        self.assertGreater(uncertain.info["epistemic"].min(), 0)
        outside = predictions.load(
            folder / "out_of_distribution" / f"{method}+{form}")
        self.assertEqual(outside.class_names, uncertain.class_names)
        self.assertTrue(outside.ids[0].startswith("shapes/"))
        self.assertAlmostEqual(
            rows[f"{method}+{form}"]["auroc_variance"],
            metrics.roc_auc_score(
                np.repeat([0, 1], 6), np.concatenate(
                    [uncertain.info["variance"], outside.info["variance"]])))
    # The posterior stands on the contexts that SoC has tuned.
    form = f"+{next(iter(bayesian.FORMS))}"
    self.assertGreater(np.abs(
        predicted["soc" + form].logits -
        predicted["zero_shot" + form].logits).max(), 1e-3)
    self.assertEqual(predicted["soc"].settings["posterior.pseudo_count"], 4)
    # Again: nothing is computed. With another posterior: refused.
    before = _contents(folder)
    self._runs("evaluate", *arguments)
    self.assertEqual(_contents(folder), before)
    self._fails("posterior.pseudo_count: stored", "evaluate", *arguments,
                "--config.posterior.pseudo_count=40")

  @pytest.mark.slow
  def test_uncertainty_about_images_of_other_classes_in_the_stream(self):
    """Without a state, the same as in a stream of their own."""
    found = []
    for share in (0, 0.5):
      output = self._folder("run")
      self._runs("evaluate", *_SMALL, _posterior(self.folder),
                 "--config.views.number=2", "--config.method.name=zero_shot",
                 "--config.method.selection_fraction=0.5",
                 "--config.data.out_of_distribution=shapes",
                 f"--config.stream.outlier_share={share}",
                 f"--output={output}")
      found.append(output / "predictions" / "digits")
    names = [path.relative_to(found[0]).with_suffix("")
             for path in sorted(found[0].rglob("*.npz"))]
    self.assertLen(names, 2 * (1 + len(bayesian.FORMS)) + 2)
    for name in names:
      apart, mixed = (predictions.load(folder / name) for folder in found)
      self.assertEqual(mixed.ids, apart.ids)
      np.testing.assert_allclose(mixed.logits, apart.logits, atol=1e-4)
      for key, values in apart.info.items():
        np.testing.assert_allclose(mixed.info[key], values, rtol=1e-3,
                                   atol=1e-4)

  @pytest.mark.slow
  def test_another_split_has_other_images(self):
    output = self._folder("run")
    plain = (
        "--config.posterior.folder=none", "--config.temperature.split=none",
        "--config.data.out_of_distribution=none")
    self._runs("evaluate", *_SMALL, *plain, "--config.data.split=validation",
               f"--output={output}")
    one = predictions.load(output / "predictions" / "digits" / "zero_shot")
    self.assertLen(one.ids, 6)
    for image_id in one.ids:
      self.assertTrue(image_id.startswith("digits/validation/"))
    self.assertEqual([row["method"] for row in _rows(output)], ["zero_shot"])

  @pytest.mark.slow
  def test_sweep(self):
    output = self._folder("run")
    printed = self._runs(
        "sweep", *_SWEPT, _posterior(self.folder), f"--output={output}",
        "--sweep=posterior.pseudo_count=1,100")
    rows = _rows(output)
    self.assertLen(rows, 2 * (1 + len(bayesian.FORMS)))
    for form in bayesian.FORMS:
      self.assertIn(f"zero_shot+{form}-posterior.pseudo_count=100.0", printed)
    self.assertTrue((output / "posterior.pseudo_count-digits.svg").exists())
    folder = output / "predictions" / "digits"
    found = files.read(self.folder)
    for form in bayesian.FORMS:
      one, hundred = (
          predictions.load(folder / f"posterior.pseudo_count={count}" /
                           f"zero_shot+{form}") for count in (1.0, 100.0))
      self.assertGreater((one.info["variance"] /
                          hundred.info["variance"]).min(), 1)
      evidence = files.maximise_evidence(found, 100)
      self.assertEqual(hundred.settings["posterior.prior_precision"],
                       evidence.prior_precision)
    plain = [predictions.load(path.with_suffix("")).logits
             for path in sorted(folder.rglob("zero_shot.npz"))]
    np.testing.assert_array_equal(*plain)

  @pytest.mark.slow
  def test_sweep_of_posteriors(self):
    output = self._folder("run")
    arguments = ("sweep", *_SWEPT, _posterior("nowhere"), f"--output={output}")
    self._fails("no posterior in elsewhere", *arguments,
                f"--sweep=posterior.folder={self.folder},elsewhere")
    self.assertFalse((output / "predictions").exists())
    self._runs(*arguments, f"--sweep=posterior.folder={self.folder}")
    self.assertLen(_rows(output), 1 + len(bayesian.FORMS))
    self._fails("no field 'temperature.split'", *arguments,
                "--sweep=temperature.split=train,validation")

  @pytest.mark.slow
  def test_select(self):
    output = self._folder("run")
    arguments = ("posterior", "select", *_SMALL, *_SELECT,
                 _posterior(self.folder))
    printed = self._runs(*arguments, f"--output={output}")
    rows = _rows(output)
    self.assertEqual(
        [(row["strategy"], row["budget"], row["seeds"]) for row in rows],
        [("before", 0, 1), ("random", 2, 2), ("random", 4, 2),
         ("epig_online", 2, 2), ("epig_online", 4, 2)])
    self.assertIn("| epig_online | 4 ", printed)
    self.assertIn("<svg", (output / "learning-digits.svg").read_text())
    chosen = json.loads((output / "selected-digits.json").read_text())
    folder = output / "predictions" / "digits"
    for strategy, of_seeds in chosen.items():
      self.assertLen(of_seeds, 2)
      for seed, ids in enumerate(of_seeds):
        self.assertLen(set(ids), 4)
        self.assertTrue(all("/train/" in image_id for image_id in ids))
        fewer = predictions.load(folder / f"{strategy}-2-{seed}")
        self.assertEqual(fewer.settings["selected"], ids[:2])
      tuned = [predictions.load(folder / f"{strategy}-4-{seed}")
               for seed in range(2)]
      row, = (row for row in rows
              if (row["strategy"], row["budget"]) == (strategy, 4))
      losses = [_nll(one.logits, one.labels) for one in tuned]
      self.assertAlmostEqual(row["nll"], np.mean(losses), places=5)
      self.assertAlmostEqual(row["nll_high"], max(losses), places=5)
    self._check_tuned(folder, "epig_online-4-1", chosen["epig_online"][1])
    # Stopped at some files, and resumed: the same.
    again, number = self._folder("stopped"), 0
    for number in range(12, 100, 6):
      with command.stopped_at_write(number) as writes:
        status, _, error = command.here(*arguments, f"--output={again}")
        self.assertEqual(status, 0, error)
      if not writes[1]:
        break
    self.assertGreater(number, 12)
    whole = _contents(output)
    for path, content in _contents(again).items():
      if path.suffix in (".npz", ".jsonl", ".md", ".svg") and (
          "features" not in path.parts):
        self.assertEqual(content, whole[path], path)
    # What enters every choice cannot change within a run.
    self._fails("tuning.num_epochs: stored 2, asked 3", *arguments,
                "--epochs=3", f"--output={output}")
    self.assertEqual(_contents(output), whole)

  def _check_tuned(self, folder, name, ids):
    """Predictions of a cell, by tuning on the stored features of its choice."""
    features = {place: Pooled(**{"residual": None} | parts.gather(
        folder / "features" / place, "image"))
                for place in ("target", "pool-digits", "validation")}
    stored = {place: json.loads((folder / "features" / place / "about.json")
                                .read_text())["ids"] for place in features}
    model = checkpoint.load(shipped.folder())
    names = predictions.load(folder / name).class_names
    text = tasks.unencoded_task(model, names, template="a photo of a {}.")
    texts = text.encode.pooled(text.context)
    posterior, _ = laplace.load(self.folder / "posterior")
    start = models.Model(
        model.params["visual_projection"]["kernel"], texts,
        texts @ model.params["text_projection"]["kernel"], posterior,
        jnp.exp(model.params["logit_scale"]))
    label_of = {}
    for split in ("train", "validation"):
      images = sets.load("digits", split=split)
      label_of |= dict(zip(images.ids, images.labels.tolist()))
    at = [stored["pool-digits"].index(image_id) for image_id in ids]
    tuned = finetuning.fine_tune(
        jax.random.fold_in(jax.random.key(1), 1), start,
        models.Labelled(
            Pooled(features["pool-digits"].activations[np.array(at)]),
            jnp.array([label_of[image_id] for image_id in ids])),
        models.Labelled(
            Pooled(features["validation"].activations),
            jnp.array([label_of[i] for i in stored["validation"]])),
        finetuning.Schedule(learning_rate=0.01, num_epochs=2))
    expected = predictive.probit_logits(models.cosines(
        start._replace(weights=tuned.weights),
        Pooled(features["target"].activations)))
    one = predictions.load(folder / name)
    np.testing.assert_allclose(one.logits, expected, atol=1e-3)
    self.assertEqual(one.settings["epoch"], int(tuned.epoch))
    before = predictions.load(folder / "before")
    self.assertGreater(np.abs(one.logits - before.logits).max(), 0.05)

  @parameterized.parameters(
      (("--budgets=0",), "--budgets are .0., expected numbers of at least 1"),
      (("--budgets=abc",), "--budgets: invalid literal.*abc"),
      (("--budgets=5,13",), "--budgets reach 13, but the pool of .* has 12"),
      (("--strategies=random,guess",), "unknown strategy 'guess'; choose from"),
      (("--strategies=random,random",), "none twice"),
      (("--strategies=",), "--strategies are"),
      (("--pool=",), "--pool names no image set"),
      (("--pool=shapes",), "shapes has other classes than digits"),
      (("--pool_split=test",), "6 images of digits are in the split 'test'"),
      (("--pool_split=dev",), "unknown split 'dev'"),
      (("--config.temperature.split=test",), "in the split 'test' of digits"),
      (("--learning_rate=-1",), "--learning_rate is -1"),
      (("--samples=1",), "--samples is 1, expected at least 2"),
      (("--config.posterior.folder=none",), "config.posterior.folder is None"),
      (("--num_processes=2",), "--num_processes has no effect"))
  def test_select_errors_come_before_the_work(self, arguments, message):
    output = self._folder("run")
    self._fails(message, "posterior", "select", *_SMALL, *_SELECT,
                _posterior(self.folder), f"--output={output}", *arguments)
    self.assertFalse(output.exists())

  @parameterized.parameters(
      (("--config.posterior.folder=nowhere",),
       "no posterior in nowhere.*--config.posterior.folder=nowhere"),
      (("--config.temperature.split=test",),
       "config.temperature.split and --config.data.split are both 'test'"),
      (("--config.posterior.pseudo_count=0",), "pseudo_count is 0.*> 0"),
      (("--config.posterior.pseudo_count=-1",), "pseudo_count is -1.*> 0"))
  def test_evaluate_errors_come_before_the_work(self, arguments, message):
    output = self._folder("run")
    self._fails(message, "evaluate", *_SMALL, _posterior(self.folder),
                f"--output={output}", *arguments)
    self.assertFalse(output.exists())

  @pytest.mark.slow
  def test_folders_have_no_split_for_a_temperature(self):
    root = self._folder("pets")
    for seed, name in enumerate(("cat", "dog", "owl")):
      (root / name).mkdir(parents=True)
      pixels = np.random.default_rng(seed).integers(
          0, 256, (48, 48, 3), np.uint8)
      Image.fromarray(pixels).save(root / name / "0.png")
    arguments = (*_CONFIG, f"--config.data.name={root}",
                 _posterior(self.folder))
    self._fails("3 images of pets are in the split 'validation' of pets",
                "evaluate", *arguments)
    # Another folder may give the same names to other images.
    other = self._folder("more_pets")
    shutil.copytree(root, other)
    select = ("posterior", "select", *arguments, f"--pool={other}",
              "--config.temperature.split=none", "--budgets=2", "--seeds=1",
              "--strategies=random", "--epochs=1")
    self._fails("3 images of pets are in .* more_pets", *select)
    for seed, name in enumerate(("cat", "dog", "owl")):
      pixels = np.random.default_rng(9 + seed).integers(
          0, 256, (48, 48, 3), np.uint8)
      Image.fromarray(pixels).save(other / name / "0.png")
    self._runs(*select, f"--output={self._folder('run')}")

  def test_posteriors_that_do_not_fit(self):
    use = ("evaluate", *_SMALL)
    folder = self._copy()
    (folder / "posterior.json").unlink()
    self._fails("no complete posterior.*goes on", *use, _posterior(folder))
    (folder / "posterior.json").write_text("{")
    self._fails("posterior in .* is damaged", *use, _posterior(folder))
    folder = self._copy()
    (folder / "factors.npz").write_bytes(b"PK\x03\x04 nothing")
    self._fails("is damaged", *use, _posterior(folder),
                "--config.posterior.pseudo_count=10")
    # Of other weights, and of another size.
    posterior, about = laplace.load(self.folder / "posterior")
    laplace.save(folder / "posterior", posterior,
                 about | {"model_fingerprint": "other"})
    self._fails("fitted to other weights than those of", *use,
                _posterior(folder))
    laplace.save(folder / "posterior", posterior._replace(
        image=laplace.deterministic(64, 32)), about)
    self._fails(
        "has 128 inputs .* but the posterior is over 64 inputs and 32 outputs",
        *use, _posterior(folder))
    folder, found = self._copy(), files.read(self.folder)
    small = curvature.Factors(np.eye(64), np.eye(32), 60)
    files.write(folder, files.fitted(
        found.factors | {"text": small}, found.manifest),
                files.Evidence(4, {"image": 1.0, "text": 1.0}))
    self._fails("was it estimated for another model", *use, _posterior(folder))
    given = _posterior(folder), "--config.posterior.pseudo_count=10"
    laplace.save(folder / "posterior", posterior, about)
    self._fails("was not made of the factors in .*--overwrite", *use, *given)
    laplace.save(folder / "posterior", posterior, about | {
        "factors": files.read(folder).manifest["factors"]})
    self._fails("was it estimated for another model", *use, *given)


class ImportTest(parameterized.TestCase):

  def _folder(self, name):
    return pathlib.Path(self.create_tempdir().full_path, name)

  def _fails(self, message, *arguments):
    status, printed, error = command.here("posterior", "import", *arguments)
    self.assertEqual(status, 2, printed)
    self.assertRegex(error, message)
    self.assertNotIn("Traceback", error)

  def _released(self, p, d):
    import torch
    folder, rng = self._folder("released"), np.random.default_rng(0)
    folder.mkdir()
    for name, size in (("A_img", p), ("B_img", d), ("A_txt", p), ("B_txt", d)):
      root = rng.standard_normal((size, size)).astype(np.float32)
      torch.save(torch.from_numpy(root @ root.T / size),
                 folder / f"{name}_analytic.pt")
    (folder / "prior_precision_analytic.json").write_text(json.dumps(
        {"lambda_img": 2.0, "n_img": 10, "lambda_txt": 3.0, "n_txt": 10}))
    return folder

  @pytest.mark.slow
  @pytest.mark.needs("torch")
  def test_imported_and_used(self):
    source, folder = self._released(128, 128), self._folder("imported")
    arguments = ("posterior", "import", source, _FILE, _posterior(folder))
    status, printed, error = command.here(*arguments)
    self.assertEqual(status, 0, error)
    self.assertRegex(printed, r"\| image \| 2 \(count 10\)")
    self.assertEqual(files.read(folder).factors["text"].num_pairs, 327_680)
    self._fails("holds a posterior already", *arguments[2:])
    self._fails("no .*nowhere/A_img", "nowhere", *arguments[3:], "--overwrite")
    self.assertTrue((folder / "posterior.npz").exists())
    status, _, error = command.here(*arguments, "--overwrite")
    self.assertEqual(status, 0, error)
    output = self._folder("run")
    status, _, error = command.here(
        "evaluate", *_SMALL, _posterior(folder), f"--output={output}",
        "--config.temperature.split=none",
        "--config.data.out_of_distribution=none")
    self.assertEqual(status, 0, error)
    self.assertLen(_rows(output), 1 + len(bayesian.FORMS))

  @pytest.mark.slow
  @pytest.mark.needs("torch")
  def test_of_another_model(self):
    source, folder = self._released(12, 8), self._folder("imported")
    self._fails("does not belong to .*128 inputs.* over 12 inputs and 8",
                source, _FILE, _posterior(folder))
    self.assertFalse(folder.exists())
    self._fails("--weight_norm2 is 1,x, expected two numbers", source, _FILE,
                _posterior(folder), "--weight_norm2=1,x")
    status, _, error = command.here(
        "posterior", "import", source, _FILE, _posterior(folder),
        "--weight_norm2=3,4")
    self.assertEqual(status, 0, error)

  @pytest.mark.needs("torch")
  def test_without_torch(self):
    source = self._released(12, 8)
    with mock.patch.dict(sys.modules, {"torch": None}):
      self._fails(r"install torch: pip install 'jaxcal\[oracle\]'", source,
                  _FILE, _posterior(self._folder("imported")))

  @parameterized.parameters(
      ((), "expected one FOLDER.*got 0"),
      (("one", "two"), "expected one FOLDER.*got 2"),
      (("nowhere",), "no nowhere/A_img_analytic.pt"))
  def test_errors(self, arguments, message):
    self._fails(message, *arguments, _FILE,
                _posterior(self._folder("imported")))


class CommandTest(parameterized.TestCase):

  @parameterized.parameters(
      (("posterior",),), (("posterior", "--help"),), (("posterior", "help"),))
  def test_the_group_names_its_commands(self, arguments):
    status, printed, error = command.here(*arguments)
    self.assertEqual((status, error), (0, ""))
    for name in ("fit", "import", "select"):
      self.assertIn(f"posterior {name} ", printed)

  @parameterized.parameters(
      ("fit", "--pseudo_counts"), ("import", "--weight_norm2"),
      ("select", "--strategies"))
  def test_help(self, name, flag):
    status, printed, error = command.here("posterior", name, "--help")
    self.assertEqual((status, error), (0, ""))
    self.assertIn(f"Example:\n  jaxcal posterior {name}", printed)
    self.assertIn(f"\n  {flag}\n", printed)
    self.assertEqual("--coordinator" in printed, name == "fit")

  @parameterized.parameters(
      (("posterior", "fti"), "unknown command 'posterior fti'; did you mean"),
      (("posterior", "fit"), "config.posterior.folder is None: name the"),
      (("posterior", "select"), "config.posterior.folder is None: name a"),
      (("posterior", "import", "x"), "config.posterior.folder is None: name"),
      (("posterior", "fit", "--config=no.py"), "--config=no.py is no file"),
      (("posterior", "fit", "x", *_CONFIG), "not a flag: x"))
  def test_errors(self, arguments, message):
    status, printed, error = command.here(*arguments)
    self.assertEqual((status, printed), (2, ""))
    self.assertRegex(error, message)
    self.assertNotIn("Traceback", error)


def _nll(logits, labels):
  logits = np.float64(logits)
  logits -= logits.max(1, keepdims=True)
  own = logits[np.arange(len(labels)), labels]
  return np.mean(np.log(np.exp(logits).sum(1)) - own)


def _add(tar, name, content):
  member = tarfile.TarInfo(name)
  member.size = len(content)
  tar.addfile(member, io.BytesIO(content))


if __name__ == "__main__":
  absltest.main()
