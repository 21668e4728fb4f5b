"""The methods by name, and what a name needs to become one.

Library code can call the modules of the single methods; this table is for
those who choose by name, and for parameters that are read from disk again.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax.tree_util import Partial

from jaxcal import spelling
from jaxcal import stages
from jaxcal.clip import checkpoint
from jaxcal.clip import preprocess
from jaxcal.tuning import classes
from jaxcal.tuning import clip_adapter
from jaxcal.tuning import cocoop
from jaxcal.tuning import coop
from jaxcal.tuning import dor
from jaxcal.tuning import kgcoop
from jaxcal.tuning import logit_range
from jaxcal.tuning import maple
from jaxcal.tuning import method as method_lib
from jaxcal.tuning import prograd
from jaxcal.tuning import promptsrc
from jaxcal.tuning import taskres
from jaxcal.tuning import tip_adapter
from jaxcal.typing import Array
from jaxcal.typing import Float

# Layers that get prompts of their own, where a tower has so many.
_DEPTH = 9


class Given(NamedTuple):
  """What a method is made of.

  Attributes:
    model: The frozen one.
    scale: Factor of the cosines.
    context: Where learned vectors begin; None for random ones.
    num_context: How many there are.
    cache: The few shots, for methods that look them up.
    lookup: Weight and sharpness of the cache.
    outlier_weight: Outlier weight for methods whose outliers are images; None
      without them.
  """

  model: checkpoint.Model
  scale: Float[Array, ""]
  context: Float[Array, "m w"] | None
  num_context: int
  cache: tip_adapter.Cache | None
  lookup: tuple[float, float]
  outlier_weight: float | None


class Kind(NamedTuple):
  """What a method asks of those who run it.

  Attributes:
    about: What it is, in a sentence.
    make: The method.
    outliers: What outlier regularisation is computed on: "names", "images", or
      None where the method has nothing that is defined for outliers.
    from_pixels: Whether it trains, and predicts, through the image tower.
    own_classes: Whether it predicts the classes of its training alone.
    per_class: Whether each class has a context of its own.
    cached: Whether it looks the few shots up.
    within_words: Whether a shorter context takes the place of the first of the
      template's words, and the others stay.
  """

  about: str
  make: Callable[[Given], method_lib.Method]
  outliers: str | None = "names"
  from_pixels: bool = False
  own_classes: bool = False
  per_class: bool = False
  cached: bool = False
  within_words: bool = False


def _maple(given):
  config = given.model.config
  return maple.method(
      config, given.model.params, logit_scale=given.scale,
      context=given.context, num_context=given.num_context,
      depth=min(_DEPTH, config.text.layers, config.vision.layers))


def _promptsrc(given):
  config = given.model.config
  return promptsrc.method(
      config, given.model.params, logit_scale=given.scale,
      context=given.context, num_context=given.num_context,
      num_vision=given.num_context,
      text_depth=min(_DEPTH, config.text.layers),
      vision_depth=min(_DEPTH, config.vision.layers))


def _tip_adapter(given):
  alpha, beta = given.lookup
  return tip_adapter.method(
      given.cache, logit_scale=given.scale, alpha=alpha, beta=beta)


METHODS = {
    "coop": Kind(
        "CoOp: the words before the class name become learned vectors.",
        lambda g: coop.method(logit_scale=g.scale, context=g.context)),
    "coop_class_specific": Kind(
        "CoOp with learned vectors for each class.",
        lambda g: coop.class_specific(logit_scale=g.scale, context=g.context),
        outliers=None, own_classes=True, per_class=True),
    "kgcoop": Kind(
        "KgCoOp: CoOp whose class features stay near hand-written ones.",
        lambda g: kgcoop.method(logit_scale=g.scale, context=g.context)),
    "prograd": Kind(
        "ProGrad: CoOp whose steps do not oppose the zero-shot model.",
        lambda g: prograd.method(logit_scale=g.scale, context=g.context)),
    "cocoop": Kind(
        "CoCoOp: a learned context that a small network moves for each image.",
        lambda g: cocoop.method(logit_scale=g.scale, context=g.context)),
    "maple": Kind(
        "MaPLe: prompts in both towers, the image tower's mapped from the "
        "text tower's.",
        _maple, from_pixels=True, within_words=True),
    "promptsrc": Kind(
        "PromptSRC: prompts in both towers, regularised towards the frozen "
        "model.",
        _promptsrc, from_pixels=True, within_words=True),
    "clip_adapter": Kind(
        "CLIP-Adapter: a small network after the image tower, mixed with its "
        "input.",
        lambda g: clip_adapter.method(
            logit_scale=g.scale, outlier_weight=g.outlier_weight),
        outliers="images"),
    "taskres": Kind(
        "TaskRes: a learned residual on the text feature of each class.",
        lambda g: taskres.method(logit_scale=g.scale),
        outliers=None, own_classes=True),
    "tip_adapter": Kind(
        "Tip-Adapter: the few shots as a cache that is looked up.",
        _tip_adapter, outliers=None, own_classes=True, cached=True),
    "tip_adapter_f": Kind(
        "Tip-Adapter-F: the same with trained keys.",
        _tip_adapter, outliers=None, own_classes=True, cached=True),
}

# What can be added to a base method, in the order in which it is applied.
ADDITIONS = ("zs_norm", "penalty", "dor")


class Spec(NamedTuple):
  """A method, with the numbers that decide what it is.

  Attributes:
    base_method: Name of what is trained, of `METHODS`.
    additions: Names of what is added to it, of `ADDITIONS`.
    num_context: Context vectors; 0 where a method learns none.
    from_words: Whether they begin as "a photo of a": as the last of them, with
      zeros before; or as the words' last ones, where there are more words.
    class_position: Position of the name among them, see `prompts.prompt_bank`.
    outlier_weight: Factor of the outlier term, with the addition "dor".
    cache_weight: Weight of the few shots' logits, where they are looked up
      (alpha).
    cache_sharpness: Sharpness of the lookup (beta).
  """

  base_method: str
  additions: tuple[str, ...] = ()
  num_context: int = 0
  from_words: bool = False
  class_position: str = "end"
  outlier_weight: float = 0.0
  cache_weight: float = 1.0
  cache_sharpness: float = 1.0

  @property
  def stages(self) -> stages.Stages:
    """The same among the stages of predictions; their label is its name."""
    return stages.Stages(self.base_method, self.additions)

  @property
  def name(self) -> str:
    """Base method and additions in one, as in coop+dor; for printing."""
    return self.stages.label

  @property
  def kind(self) -> Kind:
    """What the base method asks of those who run it."""
    return METHODS[self.base_method]

  @property
  def outliers(self) -> str | None:
    """What it is regularised on: "names", "images", or None for nothing."""
    return self.kind.outliers if "dor" in self.additions else None


def check(base_method: str, additions: Sequence[str] = ()) -> None:
  """Whether there is such a method.

  Args:
    base_method: Name of what is trained.
    additions: Names of what is added to it.

  Raises:
    ValueError: There is none; lists the choices, or says what does not go
      together.
  """
  if base_method not in METHODS:
    raise ValueError(f"unknown method {base_method!r}; "
                     f"{spelling.choices(base_method, METHODS)}")
  if list(additions) != [one for one in ADDITIONS if one in additions]:
    raise ValueError(f"{base_method} with {', '.join(additions)}: additions "
                     f"must be of {', '.join(ADDITIONS)}, each once, in this "
                     "order")
  if "dor" in additions and METHODS[base_method].outliers is None:
    raise ValueError(f"the parameters of {base_method} belong to the classes "
                     "of its training, so that there is nothing that could be "
                     "regularised on outliers")


def check_model(spec: Spec, model: checkpoint.Model) -> None:
  """Whether a method can be trained on a model.

  Args:
    spec: Method with its numbers.
    model: The frozen one.

  Raises:
    ValueError: It learns prompts of images, and the image tower takes none.
  """
  if spec.kind.from_pixels and not model.config.takes_image_prompts:
    others = [name for name, kind in METHODS.items() if not kind.from_pixels]
    raise ValueError(
        f"{spec.name} learns prompts of images, which need CLIP's vision "
        f"transformer, but the image tower of {model.name} is another one; "
        f"choose from: {', '.join(others)}, or a model such as "
        "openai/clip-vit-base-patch16")


def build(
    spec: Spec,
    model: checkpoint.Model,
    cache: tip_adapter.Cache | None = None,
) -> method_lib.Method:
  """The method that a specification describes.

  Images of methods that train from pixels have uint8 ones.

  Args:
    spec: Method with its numbers.
    model: The frozen one.
    cache: The few shots, for methods that look them up.

  Raises:
    ValueError: See `check` and `check_model`.
  """
  check(spec.base_method, spec.additions)
  check_model(spec, model)
  scale = jnp.exp(model.params["logit_scale"])
  on_images = spec.outliers == "images"
  method = spec.kind.make(Given(
      model, scale, _context(spec, model), spec.num_context, cache,
      (spec.cache_weight, spec.cache_sharpness),
      spec.outlier_weight if on_images else None))
  if "zs_norm" in spec.additions:
    method = logit_range.zs_norm(method, logit_scale=scale)
  if "penalty" in spec.additions:
    method = logit_range.penalty(method, logit_scale=scale)
  if spec.outliers == "names":
    method = dor.with_outliers(method, spec.outlier_weight)
  if spec.kind.from_pixels:
    method = _standardising(method, model.preprocess)
  return method


def prompts_of(
    spec: Spec,
    model: checkpoint.Model,
    class_names: Sequence[str],
    *,
    template: str = classes.GENERIC,
    max_bytes: int = 2**32,
    as_table: bool = False,
) -> method_lib.Prompts:
  """`classes.prompts_of` with room for the method's context."""
  return classes.prompts_of(
      model, class_names,
      num_context=None if _words_fill(spec) else spec.num_context,
      template=template, class_position=spec.class_position,
      per_class=spec.kind.per_class, max_bytes=max_bytes, as_table=as_table)


def _words_fill(spec):
  """Whether the prompts have the template's words where the context goes."""
  return not spec.num_context or spec.from_words and (
      spec.kind.within_words or spec.num_context == classes.NUM_WORDS)


def _context(spec, model):
  if not spec.from_words or not spec.num_context:
    return None
  words = classes.words_context(model)
  if _words_fill(spec):
    return words
  return prograd.after_zeros(words[-spec.num_context:], spec.num_context)


def _standardising(method, settings):
  """The method for uint8 pixels; only what is looked at becomes float."""
  mean, std = (jnp.asarray(x, jnp.float32)
               for x in (settings.mean, settings.std))
  return method._replace(
      loss=Partial(_on_batch, method.loss, mean, std),
      logits=Partial(_on_images, method.logits, mean, std))


def _standardised(mean, std, images):
  return images._replace(
      pixels=preprocess.standardise(images.pixels, mean, std, jnp.float32))


def _on_batch(function, mean, std, params, prompts, batch):
  return function(params, prompts, batch._replace(
      images=_standardised(mean, std, batch.images)))


def _on_images(function, mean, std, params, prompts, images):
  return function(params, prompts, _standardised(mean, std, images))
