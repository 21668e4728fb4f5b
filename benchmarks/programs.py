"""The programs that the commands compile, at real sizes and as shapes alone.

Nothing is allocated: parameters, prompts and features are `ShapeDtypeStruct`.
What is traced is what runs, built as the library builds it, with the batches
that the command takes by default and a budget of memory that it shares out as
the command does. A mesh may be abstract where a program is only traced.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import math
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh
from jax.sharding import AxisType

from benchmarks import sizes
from jaxcal import config
from jaxcal import memory
from jaxcal import run
from jaxcal import tasks
from jaxcal.adapt import base
from jaxcal.adapt import methods as methods_lib
from jaxcal.adapt.prompt import bayesian
from jaxcal.adapt.prompt import family as families
from jaxcal.clip import checkpoint
from jaxcal.clip import encoder
from jaxcal.clip import preprocess
from jaxcal.clip import towers
from jaxcal.data import views
from jaxcal.features import encoding
from jaxcal.posterior import curvature
from jaxcal.posterior import fit
from jaxcal.posterior import inputs
from jaxcal.posterior import laplace
from jaxcal.tuning import coop
from jaxcal.tuning import method as method_lib
from jaxcal.tuning import presets
from jaxcal.tuning import training
from jaxcal.typing import Pooled

# What the command does where nobody says otherwise.
_DEFAULTS = config.ExperimentConfig()
_BATCH = _DEFAULTS.batch_size
_NUM_VIEWS = sizes.NUM_VIEWS
_METHODS = _DEFAULTS.method.name
# Test images, by the number of classes: DTD and ImageNet.
_NUM_IMAGES = {47: 1880, 1000: 50_000}
_PHOTO = (375, 500)


class Program(NamedTuple):
  """One program and the shapes of its arguments.

  Attributes:
    function: Function of the arguments; compiled already, or to be compiled.
    arguments: Arguments, trees of shapes.
    split: Whether each argument is split by rows over the devices; empty for a
      program of one device.
    exchanges: Kinds of collectives that it may have.
    images: Images of all devices that one call does, by their views; 0 where
      it is not images that are done.
    planned: Bytes that a run has for what the program computes and holds
      meanwhile, on each device, see `memory.shares`; 0 where it has no share.
  """

  function: Callable[..., Any]
  arguments: tuple[Any, ...]
  split: tuple[bool, ...] = ()
  exchanges: tuple[str, ...] = ()
  images: float = 0
  planned: int = 0


def abstract_mesh(num_devices: int) -> AbstractMesh:
  """As `sharding.data_mesh`, for tracing where there are no such devices."""
  return AbstractMesh((num_devices,), ("data",), axis_types=(AxisType.Auto,))


def budget(memory_bytes: float) -> int:
  """What a run takes of a device if nobody says, see `memory.budget`."""
  return int(memory.SHARE_OF_DEVICE * memory_bytes)


def _shape(*size, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(size, dtype)


def _model(name, image="highest"):
  """The model as the commands hold it, but for the shapes in its parameters."""
  exact = sizes.MODELS_BY_TOWER[name]
  side = exact.image_size
  of = lambda params: checkpoint.in_precision(
      checkpoint.Model(exact, params, None, preprocess.Preprocess(side, side),
                       name, ""), image=image, text="highest")
  shapes = jax.eval_shape(
      lambda: of(towers.init(exact, jax.random.key(0))).params)
  return dataclasses.replace(of({}), params=shapes)


def _image_tower(name, precision, mesh, max_bytes):
  """A step of the image tower on a batch of views."""
  model = _model(name, image=precision)
  side, number = model.preprocess.crop, _BATCH * mesh.size
  params = {key: value for key, value in model.params.items()
            if key in towers.IMAGE_PARAMS}
  # As `encoding.image_encoder` shares them out; it counts otherwise on a CPU.
  with mock.patch.object(jax, "default_backend", return_value="tpu"):
    of_view = encoding.bytes_per_view(model)
  planned = memory.shares(max_bytes).image_tower
  views_of_device = _BATCH * _NUM_VIEWS
  at_once = math.ceil(
      views_of_device / math.ceil(views_of_device / (planned // of_view)))
  return Program(
      encoding.tower_program(model.config, model.preprocess, at_once, mesh),
      ((params, _shape(dtype=jnp.int32)),
       _shape(number, _NUM_VIEWS, side, side, 3, dtype=jnp.uint8)),
      (False, True), images=at_once * mesh.size / _NUM_VIEWS, planned=planned)


def _views(mesh, max_bytes):
  """Views of photographs, cut before the image tower sees them."""
  del max_bytes
  side, number = 224, _BATCH * mesh.size
  recipe = views.Recipe(size=side, resize=side, num_views=_NUM_VIEWS)
  return Program(
      encoding.view_program(recipe, mesh),
      ((), (_shape(number, *views.canvas_shape(*_PHOTO), 3, dtype=jnp.uint8),
            _shape(number, 2, dtype=jnp.int32),
            _shape(number, 2, dtype=jnp.uint32))),
      (False, True), images=number)


def _bank(num_classes):
  """Prompts, which are numbers: their lengths are the program's sizes."""
  return sizes.prompt_bank(
      num_classes, sizes.CLASS_NAMES if num_classes > 100 else None)


def _task(name, num_classes, max_bytes):
  """The task of a model, as `config_inputs.task` makes it."""
  model, bank = _model(name), _bank(num_classes)

  def task(params):
    of = dataclasses.replace(model, params=params)
    return base.Task(
        None, jnp.exp(params["logit_scale"]),
        encoder.context_encoder(
            of, bank, max_bytes=memory.shares(max_bytes).text_tower,
            num_contexts=_BATCH),
        encoder.initial_context(of, bank))

  return jax.eval_shape(task, model.params)


def _text(num_classes, mesh, max_bytes):
  """Text features of all classes."""
  del mesh
  return Program(lambda task: tasks.encoded(task).text_features,
                 (_task("ViT-B/16", num_classes, max_bytes),),
                 planned=memory.shares(max_bytes).text_tower)


def _prepare(num_classes, mesh, max_bytes):
  """What all images share: features and derivative at the first context."""
  del mesh
  planned = memory.shares(max_bytes).jacobian
  prepare = functools.partial(
      tasks.prepare, num_images=_NUM_IMAGES[num_classes], max_bytes=planned)
  return Program(prepare, (_task("ViT-B/16", num_classes, max_bytes),),
                 planned=planned)


def _shared(names, num_images, max_bytes, task, head):
  """What `run` hands to all devices."""
  prepared = tasks.prepare(
      task, num_images=num_images,
      max_bytes=memory.shares(max_bytes).jacobian)
  methods = {name: methods_lib.method(name) for name in names}
  family = families.family(
      families.share(task.encode, prepared, methods), head)
  task = task._replace(
      text_features=prepared.text_features, encode=None, context=None)
  return task, family, {}


def _answer(num_classes, mesh, max_bytes):
  """Five methods on a batch of images, from features of their views."""
  number = _BATCH * mesh.size
  shared = jax.eval_shape(
      functools.partial(
          _shared, _METHODS, _NUM_IMAGES[num_classes], max_bytes),
      _task("ViT-B/16", num_classes, max_bytes), None)
  features = _shape(
      number, _NUM_VIEWS, sizes.MODELS["ViT-B/16"].projection)
  return Program(run._program(mesh, False, ()),
                 (shared, (features, None, None)), (False, True), images=number,
                 planned=memory.shares(max_bytes).text_tower)


def _predictive(num_classes, mesh, max_bytes):
  """Zero-shot and the posterior's three forms, from the clean view."""
  name, number = "ViT-B/16", _BATCH * mesh.size
  model = _model(name)
  maps = jax.eval_shape(
      lambda params: inputs.projections(
          dataclasses.replace(model, params=params)), model.params)
  layers = {side: laplace.Layer(*(_shape(n, n) for n in one.kernel.shape))
            for side, one in maps.items()}
  head = bayesian.Head(
      laplace.Posterior(**layers), maps["image"], maps["text"], _shape(),
      _shape(_DEFAULTS.posterior.num_samples, num_classes))
  shared = jax.eval_shape(
      functools.partial(_shared, ("zero_shot",), 0, max_bytes),
      _task(name, num_classes, max_bytes), head)
  rows = (_shape(number, 1, model.config.projection),
          Pooled(_shape(number, model.config.pooled_sizes[0])), None)
  return Program(run._program(mesh, True, ()), (shared, rows), (False, True),
                 images=number, planned=memory.shares(max_bytes).text_tower)


def _coop(num_classes, mesh, max_bytes):
  """An epoch of CoOp, all seeds together, from stored image features."""
  del mesh
  recipe, tune = presets.recipe("coop", "upstream"), _DEFAULTS.tune
  number = tune.num_shots * num_classes
  steps = training.num_steps(number, recipe.batch_size)
  optimiser = training.sgd(training.schedule(
      recipe.learning_rate, recipe.num_epochs, steps))
  model, bank = _model("ViT-B/16"), _bank(num_classes)
  width = model.config.projection

  def begin(params):
    of = dataclasses.replace(model, params=params)
    encode = encoder.context_encoder(
        of, bank, max_groups=2, max_bytes=max_bytes // tune.num_seeds)
    prompts = method_lib.Prompts(
        encode, *[jnp.zeros((num_classes, width))] * 3)
    method = coop.method(
        logit_scale=jnp.exp(params["logit_scale"]),
        context=encoder.initial_context(of, bank))
    state = jax.vmap(lambda key: training.init(
        method, optimiser, prompts, key))(
            jax.random.split(jax.random.key(0), tune.num_seeds))
    order = jax.vmap(lambda one: training.shuffle(
        one, number, recipe.batch_size))(state)
    return method, state, prompts, order

  method, state, prompts, order = jax.eval_shape(begin, model.params)
  data = training.Data(
      method_lib.Images(_shape(tune.num_seeds * number, width)),
      _shape(tune.num_seeds * number, dtype=jnp.int32))
  return Program(
      lambda method, *given: training.train_seeds(method, optimiser, *given),
      (method, state, prompts, data, order))


def _fit_block(mesh, max_bytes):
  """A block of pairs that is added to the posterior's Kronecker factors."""
  del max_bytes
  config_ = sizes.MODELS["ViT-B/16"]
  p, d, rows = config_.vision.width, config_.projection, fit.CANDIDATES
  add = functools.partial(
      curvature._add, rows_per_chunk=curvature._ROWS_PER_CHUNK, mesh=mesh)
  return Program(
      lambda sums, rows, shared: add(sums, rows, shared),
      (jax.eval_shape(functools.partial(curvature.start, p, d)),
       (_shape(rows, p), _shape(rows, d), _shape(rows, dtype=bool)),
       (_shape(rows, d), _shape(), None)),
      (False, True, False), exchanges=("all-reduce",))


# About from the one that compiles fastest on. Each builds a program for a mesh
# and a budget in bytes, see `budget`.
PROGRAMS: Mapping[str, Callable[[Any, int], Program]] = {
    "posterior, a block of the fit": _fit_block,
    "text, 47 classes": functools.partial(_text, 47),
    "text, 1,000 classes": functools.partial(_text, 1000),
    "prepare, 47 classes": functools.partial(_prepare, 47),
    "image tower, RN50": functools.partial(_image_tower, "RN50", "bfloat16"),
    "image tower, ViT-B/16": functools.partial(
        _image_tower, "ViT-B/16", "bfloat16"),
    "image tower, ViT-B/16, float32": functools.partial(
        _image_tower, "ViT-B/16", "highest"),
    "image tower, SigLIP-B/16": functools.partial(
        _image_tower, "SigLIP-B/16", "bfloat16"),
    "posterior, predictions of 1,000 classes": functools.partial(
        _predictive, 1000),
    "CoOp, an epoch on 47 classes": functools.partial(_coop, 47),
    "predictions, 47 classes": functools.partial(_answer, 47),
    "image tower, ViT-L/14": functools.partial(
        _image_tower, "ViT-L/14", "bfloat16"),
    "prepare, 1,000 classes": functools.partial(_prepare, 1000),
    "predictions, 1,000 classes": functools.partial(_answer, 1000),
    "views of photographs": _views,
}
