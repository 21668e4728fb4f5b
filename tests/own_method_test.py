"""A method of one's own, as short as the documentation shows it, everywhere."""

import dataclasses
import pathlib
import re

from absl.testing import absltest
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcal
from jaxcal import config
from jaxcal import config_methods
from jaxcal import predictions
from jaxcal import sharding
from jaxcal.data import image_set as image_sets
from jaxcal.features import extract
from jaxcal.features import store as stores
from jaxcal.testbed import sets
from tests.cli import command

_PAGE = pathlib.Path(__file__).resolve().parents[1] / "docs" / "own_method.md"
_BLOCKS = re.findall(r"```python\n(.*?)```", _PAGE.read_text("utf-8"), re.S)
_METHOD, _ARRAYS, _CONFIG, _GRID = _BLOCKS


def _mean_of_views(text, scale, views, clean=4.0):
  """Probabilities, in float64 and one image at a time."""
  means = []
  for image in np.float64(views):
    logits = scale * image @ np.float64(text).T
    probs = np.exp(logits - logits.max(-1, keepdims=True))
    probs /= probs.sum(-1, keepdims=True)
    weights = np.r_[clean, np.ones(len(image) - 1)]
    means.append(weights @ probs / weights.sum())
  return np.array(means)


@dataclasses.dataclass(frozen=True)
class _Renamed:
  """With numbers that config.method has fields of the same name for."""

  name: str = "mean"
  context: int = 3
  num_steps: int = 1

  def method(self):
    raise AssertionError("nothing is run here")


class OwnMethodTest(absltest.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.names = {}
    with jax.numpy_rank_promotion("allow"):  # the default
      exec(_METHOD, cls.names)

  def setUp(self):
    super().setUp()
    self.enterContext(jax.numpy_rank_promotion("allow"))

  def test_it_is_short(self):
    lines = [line for line in _METHOD.splitlines() if line.strip()]
    self.assertLess(len(lines), 25)

  @pytest.mark.slow
  def test_on_arrays_and_as_a_grid(self):
    names = dict(self.names)
    for block in (_ARRAYS, _GRID):
      exec(block, names)
    found = names["predictions"]["mean_of_views"]
    expected = _mean_of_views(names["text"], 20.0, names["features"])
    np.testing.assert_allclose(np.exp(found.logits), expected, atol=1e-5)
    np.testing.assert_array_equal(found.labels, names["labels"])
    self.assertEqual(set(found.info), {"spread"})
    self.assertEqual(set(found.evidence), {"scores"})
    for row, clean in enumerate((1.0, 4.0, 16.0)):
      np.testing.assert_allclose(
          np.exp(names["outputs"].log_probs[row]), _mean_of_views(
              names["text"], 20.0, names["features"], clean), atol=1e-5)

  @pytest.mark.slow
  def test_on_a_store_and_on_images(self):
    model = jaxcal.load("testbed")
    images = image_sets.limit(sets.load("digits"), 7)
    task = jaxcal.task_of(model, images.class_names)
    methods = {"mine": self.names["MeanOfViews"](clean=2.0)}
    recipe = extract.recipe_of(model, num_views=6)
    store = stores.create(self.create_tempdir().full_path, stores.Manifest(
        "testbed", model.fingerprint, images.name,
        stores.data_fingerprint(images), {}, 0, "highest", 7, 6,
        model.config.projection, model.config.vision.width, "float32"), images)
    batch, = extract.from_images(
        model, images, [range(7)], recipe=recipe, seed=0, batch_size=7,
        mesh=sharding.data_mesh(jax.devices()[:1]), num_threads=2)
    views = np.asarray(batch.view_features)
    stores.write_chunk(store, 0, views, extract.join_pooled(batch.pooled))
    expected = _mean_of_views(
        task.text_features, float(task.logit_scale), views, clean=2.0)
    for source, options in (
        (store, {}), (images, {"model": model, "num_views": 6})):
      found = jaxcal.predict(methods, task, source, **options)["mine"]
      np.testing.assert_allclose(np.exp(found.logits), expected, atol=1e-4)
      self.assertEqual(found.ids, images.ids)
      np.testing.assert_array_equal(found.labels, images.labels)
      self.assertEqual(found.class_names, images.class_names)

  @pytest.mark.slow
  def test_in_the_command_by_a_config_file(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    (folder / "mine.py").write_text(_METHOD + _CONFIG)
    status, printed, error = command.here(
        "evaluate", *command.SMALL[1:], f"--config={folder / 'mine.py'}",
        f"--output={folder / 'out'}", "--config.evidence=image_features")
    self.assertEqual(status, 0, error)
    self.assertIn("| mean_of_views", printed)
    found = predictions.load(
        folder / "out" / "predictions" / "digits" / "mean_of_views")
    self.assertEqual(found.settings["numbers"], {"clean": 4.0})
    self.assertRegex(found.settings["config.methods"]["mean_of_views"],
                     r"^MeanOfViews\(clean=4.0\) [0-9a-f]{16}$")
    np.testing.assert_allclose(
        np.exp(found.logits), found.evidence["scores"], atol=1e-6)
    self.assertEqual(found.evidence["image_features"].shape[0], 6)
    # Another definition under the same name is another run.
    (folder / "mine.py").write_text(
        _METHOD.replace("4.0", "5.0") + _CONFIG)
    status, _, error = command.here(
        "evaluate", *command.SMALL[1:], f"--config={folder / 'mine.py'}",
        f"--output={folder / 'out'}", "--config.evidence=image_features")
    self.assertEqual(status, 2)
    self.assertRegex(error, "method: stored 'MeanOfViews.*, asked 'MeanOf")

  def test_its_numbers_may_be_called_like_fields_of_the_config(self):
    settings = config.ExperimentConfig()
    settings.methods = {"mine": _Renamed()}
    settings.method.name = ("mine",)
    settings.method.num_steps = 7
    config.check(settings)
    self.assertEqual(config_methods.methods_of(settings), {
        "mine": _Renamed(num_steps=7)})

  def test_what_a_config_file_cannot_carry(self):
    for methods, message in (
        ([jaxcal.Tda()], "must be methods by name, as in {'mine': MyMethod"),
        ({"a/b": jaxcal.Tda()}, "the name 'a/b'; expected letters"),
        ({"a+full": jaxcal.Tda()}, "the name 'a.full'; expected letters"),
        ({"..": jaxcal.Tda()}, "the name '..'; expected letters"),
        ({"mine": jaxcal.Tda}, "'mine'. is <class .*expected an instance of a"),
        ({"mine": "tda"}, "'mine'. is 'tda', expected an instance of a")):
      settings = config.ExperimentConfig()
      settings.methods = methods
      with self.subTest(message), self.assertRaisesRegex(ValueError, message):
        config.check(settings)

  def test_a_state_of_its_own(self):
    """How often each class was predicted before, by hand."""
    def init(task):
      return jnp.zeros(len(task.text_features))

    def step(task, state, views):
      logits = task.logit_scale * views[0] @ task.text_features.T
      output = jaxcal.from_logits(logits - 0.1 * state)
      return state.at[jnp.argmax(output.scores)].add(1), output

    class Balanced:

      def method(self):
        return jaxcal.TestTimeMethod(
            jax.tree_util.Partial(init), jax.tree_util.Partial(step))

    rng = np.random.default_rng(0)
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
    text, features = unit(rng.normal(size=(3, 4))), unit(
        rng.normal(size=(50, 4)))
    order = rng.permutation(50)
    found = jaxcal.predict({"mine": Balanced()}, jaxcal.Task(text, 2.0),
                           features, order=order, batch_size=7)["mine"]
    counts = np.zeros(3)
    for position in order:
      expected = 2 * features[position] @ text.T - 0.1 * counts
      np.testing.assert_allclose(found.logits[position], expected, atol=1e-4)
      counts[expected.argmax()] += 1
    self.assertIsNone(found.labels)


if __name__ == "__main__":
  absltest.main()
