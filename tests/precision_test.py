"""What every program multiplies, and how exactly: read off its jaxpr.

No accelerator is needed: what a product asks for is settled by tracing.
"""

import functools
import itertools
import os
import pathlib
import re
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax
from jax import lax
import jax.extend
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jax.tree_util import Partial
import numpy as np
import pytest

from jaxcal import config
from jaxcal import precision
from jaxcal import run
from jaxcal import sharding
from jaxcal import tasks
from jaxcal.adapt import base
from jaxcal.adapt import methods as adapt_methods
from jaxcal.adapt import run as runners
from jaxcal.adapt.prompt import bayesian
from jaxcal.adapt.prompt import engine
from jaxcal.adapt.prompt import family as families
from jaxcal.adapt.prompt import flatness
from jaxcal.adapt.prompt import methods as prompt_methods
from jaxcal.clip import captions
from jaxcal.clip import checkpoint
from jaxcal.clip import encoder
from jaxcal.clip import last_blocks
from jaxcal.clip import prompts as prompts_lib
from jaxcal.clip import towers
from jaxcal.data import image_set as image_sets
from jaxcal.data import views
from jaxcal.features import encoding
from jaxcal.losses import orthogonality
from jaxcal.metrics import calibration
from jaxcal.posterior import acquisition
from jaxcal.posterior import curvature
from jaxcal.posterior import finetuning
from jaxcal.posterior import inputs
from jaxcal.posterior import laplace
from jaxcal.posterior import model as models
from jaxcal.posterior import neighbours
from jaxcal.posterior import online
from jaxcal.posterior import predictive
from jaxcal.posterior import selection
from jaxcal.testbed import sets
from jaxcal.testbed import shipped
from jaxcal.testbed import train as testbed_train
from jaxcal.tuning import classes
from jaxcal.tuning import images as tuning_images
from jaxcal.tuning import method as method_lib
from jaxcal.tuning import methods as tuning_methods
from jaxcal.tuning import outliers
from jaxcal.tuning import presets
from jaxcal.tuning import tip_adapter
from jaxcal.tuning import training
from jaxcal.typing import Pooled
from tests.cli import command
from tests.clip import tiny
from tests.posterior import small

_NAMES = ("red circle", "blue square", "star")
_VIEWS = 21
_EXACT = (lax.Precision.HIGHEST,) * 2
# What a tower's products ask for, by its precision.
_ASKED = {"highest": _EXACT, "high": (lax.Precision.HIGH,) * 2,
          "default": (lax.Precision.DEFAULT,) * 2,
          "bfloat16": (lax.Precision.DEFAULT,) * 2}
# Of the commands that run whole.
_POSTERIOR = ("--config=configs/bayesvlm.py", "--config.data.name=digits",
              "--config.batch_size=2", "--config.temperature.limit=10",
              "--config.posterior.folder={}/posterior")
_FEW_SHOTS = ("--config=configs/dor_base_to_new.py",
              "--config.data.name=shapes", "--config.data.limit=40",
              "--config.tune.num_shots=2", "--config.tune.num_seeds=2",
              "--config.tune.num_epochs=2", "--config.tune.batch_size=9",
              "--config.tune.num_context=4",
              "--config.tune.name=coop,cocoop,maple,clip_adapter",
              "--config.tune.outlier_images=digits", "--config.tune.dor=with")


def _shape(*sizes, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(sizes, dtype)


def _products(function, *arguments):
  """(what is asked for, operands' types) of all products that are traced."""
  return list(_inside(jax.make_jaxpr(function)(*arguments).jaxpr))


def _inside(jaxpr):
  for equation in jaxpr.eqns:
    if "precision" in equation.params:
      types = tuple(x.aval.dtype for x in equation.invars[:2])
      if jnp.issubdtype(jnp.result_type(*types), jnp.inexact):
        yield equation.params["precision"], types
    for inner in jax.extend.core.jaxprs_in_params(equation.params):
      yield from _inside(inner)


class WalkerTest(parameterized.TestCase):
  """Products left alone are found, wherever they are."""

  @parameterized.named_parameters(
      ("alone", lambda x: x @ x),
      ("einsum", lambda x: jnp.einsum("ij,kj->ik", x, x)),
      ("convolution", lambda x: lax.conv(
          x[None, None], x[None, None, :2, :2], (1, 1), "VALID")),
      ("jit", jax.jit(lambda x: x @ x)),
      ("vmap", jax.vmap(lambda x: jnp.outer(x, x) @ x)),
      ("scan", lambda x: lax.scan(lambda y, _: (y @ x, None), x, length=2)),
      ("map", lambda x: lax.map(lambda row: row @ x, x)),
      ("while", lambda x: lax.while_loop(
          lambda y: y.sum() < 0, lambda y: y @ x, x)),
      ("while_condition", lambda x: lax.while_loop(
          lambda y: (y @ x).sum() < 0, lambda y: y, x)),
      ("cond", lambda x: lax.cond(
          x.sum() > 0, lambda y: y, lambda y: y @ y, x)),
      ("checkpoint", jax.checkpoint(lambda x: x @ x)),
      ("gradient", jax.grad(lambda x: jnp.sum(x @ x))),
      ("custom_jvp", jax.custom_jvp(lambda x: x @ x)),
      ("custom_vjp", jax.custom_vjp(lambda x: x @ x)),
      ("solve", lambda x: lax.custom_linear_solve(
          lambda y: x @ y, x[0], lambda _, y: y)),
      ("shard_map", lambda x: jax.shard_map(
          lambda y: y @ y.T, mesh=sharding.data_mesh(jax.devices()[:1]),
          in_specs=PartitionSpec("data"), out_specs=PartitionSpec("data"))(x)))
  def test_finds_what_asks_for_nothing(self, function):
    if isinstance(function, jax.custom_jvp):
      function.defjvp(lambda primals, tangents: (function(*primals),) * 2)
    if isinstance(function, jax.custom_vjp):
      function.defvjp(lambda x: (function(x), x), lambda x, y: (y,))
    found = _products(function, _shape(4, 4))
    self.assertIn(None, [asked for asked, _ in found])
    exact = _products(precision.highest(function), _shape(4, 4))
    self.assertLen(exact, len(found))
    self.assertEqual({asked for asked, _ in exact}, {_EXACT})

  def test_integers_are_exact_anyway(self):
    self.assertEmpty(_products(lambda x: x @ x, _shape(2, 2, dtype=jnp.int32)))


class PolicyTest(parameterized.TestCase):

  @parameterized.parameters(*precision.PRECISIONS)
  def test_the_innermost_counts(self, name):

    @precision.highest
    def program(x):
      with precision.at(name):
        y = x @ x
      return y @ x

    with jax.default_matmul_precision("tensorfloat32"):
      found = _products(program, _shape(2, 2))
    self.assertEqual([asked for asked, _ in found], [_ASKED[name], _EXACT])

  def test_calls_do_not_trace_again(self):
    traced = []

    @jax.jit
    @precision.highest
    def program(x):
      traced.append(x.shape)
      return encode(x)

    def encode(x):
      with precision.at("default"):
        return x @ x

    for _ in range(3):
      program(jnp.ones((2, 2)))
    self.assertLen(traced, 1)
    program(jnp.ones((3, 3)))
    self.assertLen(traced, 2)

  def test_a_decorated_function_keeps_its_signature(self):
    jitted = jax.jit(precision.highest(
        lambda x, *, scale: scale * x @ x), static_argnames="scale")
    np.testing.assert_array_equal(jitted(jnp.eye(2), scale=2), 2 * np.eye(2))

  def test_unknown(self):
    for function in (precision.at, precision.check):
      with self.assertRaisesRegex(
          ValueError, "unknown precision 'float32'; choose from: highest, "
          "high, default, bfloat16"):
        function("float32")

  def test_the_config_knows_the_same(self):
    experiment = config.ExperimentConfig()
    for name in precision.PRECISIONS:
      experiment.model.image_precision = name
      experiment.model.text_precision = name
      config.validate(experiment)
    experiment.model.image_precision = "float32"
    with self.assertRaisesRegex(
        ValueError, ", ".join(map(repr, precision.PRECISIONS[:-1]))):
      config.validate(experiment)


class TowerTest(parameterized.TestCase):
  """A tower's program asks for what its precision says, and for nothing else.
  """

  def _model(self, write, **sides):
    model = checkpoint.load(write(self.create_tempdir().full_path))
    return checkpoint.in_precision(
        model, **{"image": "highest", "text": "highest"} | sides)

  def _assert_asks(self, name, found):
    self.assertNotEmpty(found)
    types = jnp.bfloat16 if name == "bfloat16" else jnp.float32
    self.assertEqual(
        set(found), {(_ASKED[name], (jnp.dtype(types),) * 2)})

  @parameterized.product(
      name=precision.PRECISIONS,
      write=(tiny.write, tiny.write_siglip, tiny.write_resnet))
  def test_images(self, name, write):
    model = self._model(write, image=name)
    side = model.config.image_size
    pixels = _shape(2, side, side, 3, dtype=jnp.uint8)
    found = _products(model.image_features, pixels)
    if write is tiny.write_resnet:
      # Stem, six blocks, the first of each stage with one more, and the pool.
      self.assertLen(found, 3 + 3 * 6 + 4 + 5 + 1)
    else:
      # Queries, keys, values, two of attention, output, two of the MLP.
      layers = 8 * model.config.vision.layers
      self.assertGreaterEqual(len(found), 2 + layers)
    self._assert_asks(name, found)
    # Without the projection.
    pooled = _products(model.pooled, pixels)
    self.assertLen(pooled, len(found) - 1)
    self._assert_asks(name, pooled)
    tower = encoding.tower_program(
        model.config, model.preprocess, 2, sharding.data_mesh(
            jax.devices()[:2]))
    views = _shape(2, 3, side, side, 3, dtype=jnp.uint8)
    batches = _products(tower, (model.params, _shape(dtype=jnp.int32)), views)
    self.assertLen(batches, len(found))
    self._assert_asks(name, batches)

  @parameterized.product(
      name=precision.PRECISIONS,
      write=(tiny.write, tiny.write_siglip, tiny.write_resnet))
  @pytest.mark.slow
  def test_texts(self, name, write):
    model = self._model(write, text=name)
    ids = np.array([[28, 3, 4, 29, 0], [28, 5, 6, 7, 29]])
    bank = prompts_lib.from_token_ids(
        np.pad(ids, ((0, 0), (0, model.config.context_length - 5))), [1],
        [3, 4])
    self._assert_asks(name, _products(model.text_features, bank))
    for per_class, chunk in itertools.product((False, True), (2**32, 1)):
      encode = encoder.context_encoder(
          model, bank, per_class=per_class, max_bytes=chunk)
      context = encoder.initial_context(model, bank)
      self._assert_asks(name, _products(lambda e, x: e(x), encode, context))
      self._assert_asks(
          name, _products(lambda e, x: e.pooled(x), encode, context))
      # Backward as forward.
      self._assert_asks(name, _products(
          jax.grad(lambda x, e: e(x).sum()), context, encode))
      if hasattr(encode, "jacobian"):
        self._assert_asks(
            name, _products(lambda e, x: e.jacobian(x), encode, context))

  def test_parameters_in_half_precision(self):
    model = checkpoint.load(
        tiny.write(self.create_tempdir().full_path), dtype=jnp.bfloat16)
    self._assert_asks("bfloat16", _products(
        model.image_features, _shape(1, 6, 6, 3, dtype=jnp.uint8)))

  def test_a_projection_alone_is_exact(self):
    projection = towers.Projection(_shape(4, 3), _shape(3))
    self.assertEqual(
        [asked for asked, _ in _products(
            towers.project, _shape(2, 4), projection)], [_EXACT])


class _World:
  """A model and the programs around it, by name.

  Each program is a function and its arguments, of which some are shapes.
  """

  def __init__(self, towers_in):
    self.model = checkpoint.in_precision(
        checkpoint.load(shipped.folder()), image=towers_in, text=towers_in)
    self.task = tasks.unencoded_task(self.model, _NAMES)
    self.mesh = sharding.data_mesh(jax.devices()[:2])
    self.k, self.d = len(_NAMES), self.model.config.projection
    self.scale = jnp.asarray(100.0)
    self.encoded = self.task._replace(
        text_features=_shape(self.k, self.d), logit_scale=_shape(),
        image_blocks=last_blocks.of(self.model.config, self.model.params, 3))
    self.views = _shape(2, _VIEWS, self.d)

  def seen(self, numbers, *rows):
    """What a method sees of images."""
    views = _shape(*rows, _VIEWS, self.d)
    if not base.image_blocks(numbers):
      return views
    states = encoding.states_of_image(self.model, 1, _VIEWS)
    return base.Seen(views, _shape(*rows, *states.shape, dtype=states.dtype))

  def prepared(self, linearisation="vjp"):
    return jax.eval_shape(
        functools.partial(engine.prepare, linearisation=linearisation),
        self.task.encode, self.task.context, self.scale)

  def head(self):
    maps = (towers.image_projection(self.model.config, self.model.params),
            towers.text_projection(self.model.config, self.model.params))
    layers = [laplace.Layer(*(_shape(n, n) for n in one.kernel.shape))
              for one in maps]
    return bayesian.Head(laplace.Posterior(*layers), *maps, _shape(),
                         _shape(5, self.k))

  def prompt_tuning(self):
    """What `run` computes for methods that share prompts."""
    named = {name: adapt_methods.method(name) for name in adapt_methods.METHODS}
    tuning = {name: method for name, method in named.items()
              if isinstance(method, prompt_methods.PromptMethod)}
    alone = {name: method.method() for name, method in named.items()
             if name in ("mta", "zero", "tps")}
    pooled = Pooled(_shape(2, self.model.config.pooled_sizes[0]))
    evidence = ("image_features", "zero_shot_logits")
    for head in (None, self.head()):
      def shared(prepared, head):
        family = families.family(families.share(
            self.task.encode, prepared, tuning, random_views=True), head)
        return self.encoded, family, alone

      program = run._program(self.mesh, head is not None, evidence)
      yield f"predict, head={head is not None}", (
          program, jax.eval_shape(shared, self.prepared(), head),
          (self.views, pooled, None))
    for linearisation in ("vjp", "jacobian"):
      yield f"prepare, {linearisation}", (
          functools.partial(engine.prepare, linearisation=linearisation),
          self.task.encode, self.task.context, self.scale)
      yield f"penalties, {linearisation}", (
          lambda prepared: families.penalties(prepared, tuning),
          self.prepared(linearisation))

    def one_by_one(prepared, views):
      return [engine.adapt(
          self.task.encode, prepared, views, method.objective(),
          optimiser=method.optimiser, selection_fraction=0.5)
              for method in tuning.values()]

    yield "adapt", (one_by_one, self.prepared(), _shape(_VIEWS, self.d))
    recipe = flatness.Recipe(num_steps=2)
    yield "flat context", (
        lambda *given: flatness.advance(*given, recipe, num_steps=2),
        self.task.encode, _shape(self.k, self.d), jax.random.key(0),
        flatness.begin(self.task.context, recipe))

  def streams(self):
    """Every method with a state, and every other one as a stream."""
    for name in adapt_methods.METHODS:
      method = adapt_methods.method(name)
      if isinstance(method, prompt_methods.PromptMethod):
        continue
      seen = lambda *rows, m=method: self.seen(m, *rows)
      method = method.method()
      # Some memories have the size of the stream.
      states = jax.eval_shape(
          lambda task, m=method: runners.begin(
              m, task._replace(num_images=6), 2), self.encoded)
      yield f"stream of {name}", (
          runners.advance, method, self.encoded, states,
          seen(6), _shape(2, 4, dtype=jnp.int32))
      yield f"one image of {name}", (
          lambda task, views, m=method: m.step(
              task, m.init(task._replace(num_images=1)), views),
          self.encoded, seen())
    yield "logits", (base.logits, self.encoded, _shape(self.d))

  def other_texts(self):
    yield "captions", (lambda: captions.pooled(self.model, _NAMES),)
    bank = encoder.prompt_bank(self.model, _NAMES)
    yield "template", (classes._pooled, encoder.context_encoder(
        self.model, bank), encoder.initial_context(self.model, bank))

  def views_program(self):
    for augmix in (False, True):
      recipe = views.Recipe(
          size=48, resize=48, num_views=3, augmix=augmix)
      program = encoding.view_program(recipe, self.mesh)
      yield f"views, augmix={augmix}", (
          program, (), (_shape(2, 64, 64, 3, dtype=jnp.uint8),
                        _shape(2, 2, dtype=jnp.int32),
                        _shape(2, 2, dtype=jnp.uint32)))

  def few_shots(self):
    side = self.model.config.image_size
    pooled = Pooled(_shape(4, self.model.config.pooled_sizes[0]))
    features, labels = _shape(4, self.d), _shape(4, dtype=jnp.int32)
    images = method_lib.Images(features, features, pooled, _shape(
        4, side, side, 3, dtype=jnp.uint8))
    order = training.Order(_shape(2, 2, dtype=jnp.int32),
                           _shape(1, dtype=jnp.int32))
    optimiser = training.sgd(0.1)
    cache = tip_adapter.make_cache(
        np.eye(4, self.d, dtype=np.float32)[None], np.arange(4) % 3, self.k)
    added = [("coop", one) for one in tuning_methods.ADDITIONS]
    for name, *additions in (
        *((name,) for name in tuning_methods.METHODS), *added,
        ("clip_adapter", "dor")):
      recipe = presets.recipe(name, "upstream")
      spec = tuning_methods.Spec(
          name, tuple(additions), recipe.num_context, recipe.from_words,
          outlier_weight=2.0)
      method = tuning_methods.build(
          spec, self.model, cache if spec.kind.cached else None)
      prompts = tuning_methods.prompts_of(spec, self.model, _NAMES)
      drawn = None
      if spec.outliers is not None:
        table = images._replace(pooled=None, pixels=None)
        if spec.outliers == "names":
          table = tuning_methods.prompts_of(
              spec, self.model, ("cat", "dog", "owl"), as_table=True)
        drawn = training.Outliers(table, _shape(3, 2, dtype=jnp.int32))
      state = training.init(method, optimiser, prompts, jax.random.key(0))
      yield f"epoch of {name}", (
          lambda *given, m=method: training.train_epoch(m, optimiser, *given),
          state, prompts, training.Data(images, labels), order, drawn)
      yield f"logits of {name}", (method.logits, state.params, prompts, images)
    yield "search", (
        lambda *given: tip_adapter.search(*given, logit_scale=100.0),
        {"keys": cache.keys}, cache, prompts, images, labels)
    yield "ranking of outliers", (
        lambda *given: outliers.rank(*given, num_kept=2),
        _shape(5, self.d), _shape(self.k, self.d))

  def training_of_the_testbed(self):
    config_, size = testbed_train.MODEL, testbed_train.scenes.SIDE
    state = jax.eval_shape(
        lambda: testbed_train.init(config_, 0))
    batch = testbed_train.Batch(
        images=_shape(2, size, size, 3, dtype=jnp.uint8),
        windows=_shape(2, 4),
        token_ids=_shape(2, config_.context_length, dtype=jnp.int32),
        values=_shape(2, len(testbed_train.captions.ATTRIBUTES),
                      dtype=jnp.int32),
        matches=_shape(2, 2, dtype=bool))
    yield "testbed", (
        lambda *given: testbed_train.update(config_, *given, steps=4), state,
        batch)


@functools.cache
def _world(towers_in):
  return _World(towers_in)


class ProgramTest(parameterized.TestCase):
  """What comes behind the towers is exact, whatever they are."""

  def _assert_exact(self, towers_in, programs):
    half = (jnp.dtype(jnp.bfloat16),) * 2
    for name, (function, *arguments) in programs:
      found = set(_products(function, *arguments))
      with self.subTest(name):
        self.assertNotEmpty(found)
        if towers_in == "bfloat16":
          found -= {(_ASKED["bfloat16"], half)}
        self.assertEqual({asked for asked, _ in found} | {_EXACT}, {_EXACT})
        self.assertNotIn(half, [types for _, types in found])

  @parameterized.product(
      towers_in=("highest", "bfloat16"),
      part=("prompt_tuning", "streams", "other_texts", "views_program",
            "few_shots", "training_of_the_testbed"))
  @pytest.mark.slow
  def test_around_a_model(self, towers_in, part):
    self._assert_exact(towers_in, getattr(_world(towers_in), part)())

  def test_without_a_model(self):
    model, pool, targets = small.random()
    labels = jnp.zeros(models.size(pool), jnp.int32)
    labelled = models.Labelled(pool, labels)
    key = jax.random.key(0)
    image = models.take(pool, slice(0, 1))
    p, d = model.weights.shape
    factors = curvature.Factors(jnp.eye(p), jnp.eye(d), 10)
    learner = online.Learner(factors, 1.0, 1.0, refit=False)
    problem = selection.Problem(
        model, pool, targets, labels, learner, num_samples=4)
    schedule = finetuning.Schedule(num_epochs=2)
    texts = models.text_embeddings(model)
    images = models.image_embeddings(model, pool)
    one = jax.tree.map(lambda x: x[0], images)
    posterior, scale = model.posterior, model.logit_scale
    sums = curvature.start(p, d)
    mesh = sharding.data_mesh(jax.devices()[:2])
    block = (_shape(6, p), _shape(6, d), _shape(4, d), scale)
    programs = {
        "logits": (models.logits, model, pool),
        "cosines": (models.cosines, model, pool),
        "samples": (lambda *given: models.sample_logits(
            *given, num_samples=3), key, model, pool),
        "fine-tuning": (lambda *given: finetuning.fine_tune(
            *given, schedule), key, model, labelled, labelled),
        "learning curve": (lambda keys, model: finetuning.points(
            keys, problem._replace(model=model), np.array([[0, 1], [2, 3]]),
            targets, labelled, schedule), jax.random.split(key), model),
        "online epig": (lambda *given: online.epig(*given, num_samples=3),
                        key, model, pool, targets),
        "online step": (online._update, model, factors._replace(
            num_pairs=_shape()), image, 1, 1e-4, 10.0),
        "neighbours": (neighbours.expected_cosine, one, images,
                       posterior.image),
        "epig": (acquisition.epig, _shape(4, 3, 2), _shape(5, 3, 2)),
        "joint": (lambda *given: predictive.joint_covariance(
            one, model.text_embeddings, predictive.joint_spread(
                model.text_activations, posterior.text), *given), posterior,
                  scale),
        "joint samples": (predictive.sample_joint_logits, _shape(3),
                          _shape(3, 3), _shape(5, 3)),
        "diagonal": (predictive.prob_cosine_diagonal, _shape(4), _shape(4),
                     _shape(3, 4), _shape(3, 4), scale),
        "normalised": (predictive.normalised_embedding_full, one,
                       posterior.image),
        **{f"form {name}": (form, one, texts, posterior, scale)
           for name, form in bayesian.FORMS.items()},
        **{f"curvature, {loss}, {where is not None} devices": (
            lambda *given, where=where: curvature.add(*given, mesh=where),
            sums, *block, *bias)
           for loss, bias in (("infonce", ()), ("sigmoid", (_shape(),)))
           for where in (None, mesh)},
        "loss": (jax.grad(orthogonality.full_orthogonality), _shape(3, 4)),
        "ece": (calibration.expected_calibration_error, _shape(9),
                _shape(9, dtype=jnp.int32)),
    }
    self._assert_exact("highest", programs.items())

  @pytest.mark.slow
  def test_what_follows_a_tower_in_half_precision(self):
    model = _world("bfloat16").model
    for projection in inputs.projections(model).values():
      self.assertEqual(projection.kernel.dtype, jnp.float32)
    few = image_sets.limit(sets.load("digits"), 3)
    folder = pathlib.Path(self.create_tempdir().full_path)
    half, whole = (
        tuning_images.training(_world(name).model, few, folder=folder / name)
        for name in ("bfloat16", "highest"))
    self.assertEqual(half.embeddings.dtype, jnp.float32)
    cosines = np.sum(np.asarray(half.features) * whole.features, axis=-1)
    self.assertGreater(cosines.min(), 0.999)
    self.assertFalse(np.array_equal(half.features, whole.features))


class OwnMethodTest(absltest.TestCase):
  """Methods of a user's own, which ask for nothing, are exact in our programs.
  """

  def _assert_exact(self, function, *arguments):
    self.assertEqual(
        [asked for asked, _ in _products(function, *arguments)], [_EXACT])

  def test_at_test_time(self):
    method = base.TestTimeMethod(
        Partial(lambda task: jnp.zeros(())),
        Partial(lambda task, state, views: (
            state, base.from_logits(views[0] @ task.text_features.T))))
    task = base.Task(_shape(3, 4), _shape())
    images = _shape(2, _VIEWS, 4)
    self._assert_exact(lambda *given: runners.episodic(method, *given), task,
                       images)
    self._assert_exact(lambda *given: runners.advance(method, *given), task,
                       _shape(1), images, _shape(1, 2, dtype=jnp.int32))
    self._assert_exact(sharding.over_rows(
        lambda task, rows: rows @ task.text_features.T,
        sharding.data_mesh(jax.devices()[:2])), task, _shape(2, 4))

  def test_in_training(self):

    def loss(params, prompts, batch):
      return jnp.sum(batch.images.features @ prompts.target.T * params), {}

    gradient = lambda params, prompts, batch: (
        loss(params, prompts, batch), params)
    features = _shape(2, 4)
    given = (_shape(), method_lib.Prompts(None, *[_shape(3, 4)] * 3),
             method_lib.Batch(method_lib.Images(features), _shape(2)))
    for own in (None, gradient):
      method = method_lib.Method(None, loss, None, gradient=own)
      self._assert_exact(training.value_and_gradient(method), *given)


@pytest.mark.slow
class CommandTest(parameterized.TestCase):
  """Whatever a command compiles, down to a product outside of all programs."""

  @parameterized.named_parameters(
      ("evaluate", [("evaluate", *command.SMALL, "--config.method.name=" +
                     ",".join(adapt_methods.METHODS),
                     "--config.method.r_tpt.num_neighbours=5",
                     "--config.evidence=view_logits,mean_cosine",
                     "--config.temperature.split=validation",
                     "--config.temperature.limit=10", "--output={}/run")]),
      ("tune", [("tune", *_FEW_SHOTS, "--output={}/run")]),
      ("posterior", [
          ("posterior", "fit", *_POSTERIOR, "--num_pairs=60",
           "--candidates=24"),
          ("evaluate", *_POSTERIOR, "--config.data.limit=6",
           "--config.metrics.num_resamples=50", "--output={}/run"),
          ("posterior", "select", *_POSTERIOR, "--config.data.limit=6",
           "--strategies=bald_targets,epig_online", "--budgets=2",
           "--seeds=2", "--pool_limit=12", "--epochs=2", "--samples=4",
           "--output={}/select")]))
  def test_is_exact(self, commands):
    folder = pathlib.Path(self.create_tempdir().full_path)
    half = "tensor<[^>]*xbf16>"
    for towers_in in ("highest", "bfloat16"):
      at = folder / towers_in
      environment = {"JAX_DUMP_IR_TO": str(at / "dumped")}
      with mock.patch.dict(os.environ, environment):
        for arguments in commands:
          status, _, error = command.run(
              *(argument.format(at) for argument in arguments),
              f"--config.model.image_precision={towers_in}",
              f"--config.model.text_precision={towers_in}")
          self.assertEqual(status, 0, error)
      lines = [line for path in sorted((at / "dumped").glob("*.mlir"))
               for line in path.read_text("utf-8").splitlines()
               if re.search("stablehlo.(dot|dot_general|convolution)[ (]", line)
               and not re.search(r": \(tensor<[^>]*x[su]?i\d+>", line)]
      exact = [line for line in lines
               if "precision = [HIGHEST, HIGHEST]" in line]
      self.assertNotEmpty(exact)
      others = [line for line in lines if line not in exact]
      if towers_in == "bfloat16":
        self.assertNotEmpty(others)
        others = [line for line in others
                  if not re.search(rf": \({half}, {half}\)", line)]
      self.assertEmpty(others)


if __name__ == "__main__":
  absltest.main()
