"""From images or stored features to Predictions, many settings in one pass.

The views of an image go through the image tower once; all settings then tune
and answer from the same features, and share what `adapt.settings` can share.
Each device works on its own images with the same program, so the answers do not
depend on how many devices or processes there are.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import functools
import pathlib
import tempfile
from typing import Any, NamedTuple

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from jaxcal import parts as parts_lib
from jaxcal import predictions as predictions_lib
from jaxcal import sharding
from jaxcal.adapt import bayesian
from jaxcal.adapt import engine
from jaxcal.adapt import settings as settings_lib
from jaxcal.clip import checkpoint
from jaxcal.clip import prefix
from jaxcal.clip import prompts
from jaxcal.data import image_set as image_sets
from jaxcal.data import views
from jaxcal.features import extract
from jaxcal.features import store as stores
from jaxcal.typing import Array
from jaxcal.typing import at_least_float32
from jaxcal.typing import Float

Predictions = predictions_lib.Predictions
_GIGABYTE = 2**30


class TextSide(NamedTuple):
  """The prompts of a data set as a function of their context."""

  encode: engine.Encode
  context: Float[Array, "m w"]  # of the template's own words, or another one
  logit_scale: Float[Array, ""]


def text_side(
    model: checkpoint.Model,
    class_names: Sequence[str],
    *,
    template: str = "a photo of a {}.",
    num_context_tokens: int | None = None,
    class_position: str = "end",
    max_bytes: int = 4 * _GIGABYTE,
    num_contexts: int = 1,
) -> TextSide:
  """The fastest exact encoder of the classes' prompts.

  Args:
    model: From `checkpoint.load`.
    class_names: In label order.
    template: Prompt; the words before {} are the initial context.
    num_context_tokens: If given, so many placeholders stand in for these
      words: room for another context, which is to take their place.
    class_position: Of the name among the context's tokens, see
      `prompts.prompt_bank`.
    max_bytes: Classes are encoded in chunks to stay within about this.
    num_contexts: That will be encoded at once, under `vmap`.

  Raises:
    ValueError: see `prompts.prompt_bank`.
  """
  config = model.config
  bank = prompts.prompt_bank(
      model.tokenizer, class_names, template=template,
      context_length=config.context_length, eos_token_id=config.eos_token_id,
      class_position=class_position, num_context_tokens=num_context_tokens,
      crop=config.causal)
  if config.causal:
    encode = prefix.context_encoder(
        config, model.params, bank,
        classes_per_chunk=prefix.classes_within(
            config, bank, max_bytes=max_bytes, num_contexts=num_contexts),
        # With few classes, compiling takes longer than the padding.
        max_groups=2 if len(class_names) < 100 else 4)
  else:
    encode = prompts.context_encoder(config, model.params, bank)
  context = at_least_float32(
      prompts.initial_context(model.params, bank))
  return TextSide(encode, context, jnp.exp(model.params["logit_scale"]))


def prepare(
    text: TextSide,
    *,
    num_images: int,
    linearisation: str = "auto",
    max_bytes: int = 4 * _GIGABYTE,
) -> engine.Prepared:
  """`engine.prepare`, compiled, choosing the faster linearisation.

  Args:
    text: From `text_side`; another `context` may have taken the place of the
      template's.
    num_images: That will be adapted.
    linearisation: "vjp", "jacobian", or "auto" to choose.
    max_bytes: Budget for the Jacobian.
  """
  features = jax.eval_shape(text.encode, text.context)
  if linearisation == "auto":
    linearisation = "vjp"
    if isinstance(text.encode, prefix.Encoder):
      linearisation = engine.choose_linearisation(
          *features.shape, text.context.size, num_images=num_images,
          max_bytes=max_bytes)
  if linearisation == "jacobian":
    logging.warning(
        "preparing the Jacobian of the text tower, once: takes about as long "
        "as %d images (--config.linearisation=vjp goes without)",
        4 * features.shape[-1])
  return jax.jit(engine.prepare, static_argnames="linearisation")(
      *text, linearisation=linearisation)


def answer_names(
    settings: Iterable[str], *, with_posterior: bool = False
) -> dict[str, str]:
  """Names of the answers that `evaluate` returns, and the setting of each."""
  forms = [f"+{form}" for form in bayesian.FORMS] if with_posterior else []
  return {name + form: name for name in settings for form in ["", *forms]}


def evaluate(
    model: checkpoint.Model,
    image_set: image_sets.ImageSet,
    settings: Mapping[str, settings_lib.Setting],
    *,
    recipe: views.Recipe,
    seed: int = 0,
    store: stores.Store | None = None,
    text: TextSide | None = None,
    head: bayesian.Head | None = None,
    linearisation: str = "auto",
    max_bytes: int = 4 * _GIGABYTE,
    batch_size: int = 8,
    num_threads: int = 4,
    parts: pathlib.Path | None = None,
    about: Mapping[str, Mapping[str, Any]] | None = None,
    devices: Sequence[jax.Device] | None = None,
    on_batch: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[str, Predictions]]:
  """Answers under every setting for every image of a set.

  A generator: all answers are computed when the first is asked for, and put
  together one setting at a time. With several processes each calls this with
  the same arguments, and `parts` is a folder that all of them see.

  Args:
    model: From `checkpoint.load`.
    image_set: Labelled images; labels are only copied to the result.
    settings: By the name under which their answers are returned.
    recipe: Of the views.
    seed: Of the views.
    store: Stored features of these images (and perhaps others), which are then
      not read; its manifest is the caller's to check.
    text: From `text_side`; of the template "a photo of a {}." if None.
    head: With a posterior every context also answers in each of
      `bayesian.FORMS`, see `answer_names`.
    linearisation: See `prepare`.
    max_bytes: See `prepare`.
    batch_size: Images per device and step. No influence on the answers beyond
      rounding.
    num_threads: Threads that read images.
    parts: Folder that receives the answers batch by batch; what lies there
      from an interrupted run with the same settings is not computed again.
    about: What to write into the predictions, by name; where given, only
      these are returned.
    devices: That share the images; those of all processes if None.
    on_batch: Called with (images done, images in all) after each batch.

  Yields:
    (name, Predictions), in the order of the set; the same in each process.

  Raises:
    ValueError: the set does not hold together (see `image_set.check`), a class
      name is too long, an image cannot be read, or features or answers are not
      finite.
  """
  image_sets.check(image_set)
  text = text or text_side(model, image_set.class_names, max_bytes=max_bytes,
                           num_contexts=batch_size)
  mesh = sharding.data_mesh(devices)
  names = tuple(answer_names(settings, with_posterior=head is not None))
  about = {name: {} for name in names} if about is None else about
  with tempfile.TemporaryDirectory() as scratch:
    parts = parts or pathlib.Path(scratch)
    todo = _missing(parts, image_set, names)
    if len(todo):
      prepared = _prepared(text, image_set, settings,
                           linearisation=linearisation, max_bytes=max_bytes)
      answer = _answering(text.encode, prepared, settings, head, mesh)
      batches = _batches(
          model, image_set, todo, store, recipe=recipe, seed=seed, mesh=mesh,
          batch_size=batch_size, num_threads=num_threads)
      done, total = len(image_set.ids) - len(todo), len(image_set.ids)
      for batch, answers in _one_behind(batches, answer):
        _write(parts, image_set, batch, sharding.gather_local(answers))
        done = min(done + mesh.devices.size * batch_size, total)
        if on_batch is not None:
          on_batch(done, total)
    sharding.barrier("answered")
    for name, settings_of in about.items():
      fields = parts_lib.gather(parts, name)
      yield name, Predictions(
          fields.pop("logits"), np.asarray(image_set.labels, np.int32),
          image_set.ids, image_set.class_names, fields, settings_of)


def _missing(parts, image_set, names):
  """Positions without an answer, after all processes agree on the folder."""
  if jax.process_index() == 0:
    parts_lib.open_folder(parts, image_set.ids, names)
  sharding.barrier("folder")
  parts_lib.open_folder(parts, image_set.ids, names)
  todo = parts_lib.missing(parts, len(image_set.ids))
  sharding.barrier("missing")  # nobody writes before all have looked
  return todo


def _prepared(text, image_set, settings, *, linearisation, max_bytes):
  """What all images share; refuses text features that are not finite."""
  # All images count, so that a resumed run chooses like the one before; but
  # none that only zero-shot answers for, which takes no gradient.
  steps = any(setting.method.num_steps for setting in settings.values())
  prepared = prepare(text, num_images=len(image_set.ids) if steps else 0,
                     linearisation=linearisation, max_bytes=max_bytes)
  _check_finite(prepared.text_features, "text features", image_set.class_names)
  return prepared


def _batches(model, image_set, todo, store, *, mesh, batch_size, recipe, seed,
             num_threads) -> Iterator[extract.Batch]:
  """Features of the images at `todo`, with positions in the image set."""
  size = mesh.devices.size * batch_size
  if store is None:
    yield from extract.from_images(
        model, image_set, extract.batches_of(todo, size), recipe=recipe,
        seed=seed, mesh=mesh, batch_size=batch_size, num_threads=num_threads)
    return
  row_of = {image_id: row for row, image_id in enumerate(store.image_ids)}
  absent = [i for i in image_set.ids if i not in row_of]
  if absent:
    raise ValueError(f"the store {store.folder} has no features of "
                     f"{len(absent)} of {len(image_set.ids)} images, the first "
                     f"one {absent[0]!r}")
  rows = np.array([row_of[image_set.ids[position]] for position in todo])
  position_of = dict(zip(rows.tolist(), todo.tolist()))
  for batch in extract.from_store(
      store, extract.batches_of(np.sort(rows), size), config=model.config,
      mesh=mesh, batch_size=batch_size):
    # Filling may name a row that nobody asked for.
    yield batch._replace(positions=np.array(
        [position_of.get(row, -1) for row in batch.positions.tolist()]))


def _answering(encode, prepared, settings, head, mesh):
  """The function from a batch of features to answers by name and field."""
  penalties = settings_lib.penalties(prepared, settings)
  shared = sharding.replicate(
      (encode, prepared, penalties, dict(settings), head), mesh)
  return lambda batch: _answer_program(mesh)(
      shared, (batch.view_features, batch.pooled))


@functools.cache  # as `jit` does: another pass does not compile again
def _answer_program(mesh):

  def answer(shared, rows):
    encode, prepared, penalties, settings, head = shared
    view_features, pooled = rows
    adapted = settings_lib.answer(
        encode, prepared, penalties, settings, view_features)
    answers = {name: {"logits": one.logits} | one.info._asdict()
               for name, one in adapted.items()}
    if head is not None:
      answers |= _doubted(encode, prepared, settings, head, adapted, pooled)
    return answers

  return sharding.over_rows(answer, mesh)


def _doubted(encode, prepared, settings, head, adapted, pooled):
  """What the posterior answers with the contexts that were adapted."""
  embed_texts = lambda context: bayesian.embed(
      encode.pooled(context), head.text, head.posterior.text)
  images = bayesian.embed(
      pooled.activations, head.image, head.posterior.image, pooled.residual)
  tuned = [name for name in adapted if settings[name].method.num_steps]
  found = {}
  if len(tuned) < len(adapted):
    answers = jax.vmap(bayesian.answer, (None, None, 0))(
        head, embed_texts(prepared.context), images)
    found |= {name: answers for name in adapted if name not in tuned}
  if tuned:
    # One setting after the other, as in `settings.answer`.
    answers = jax.lax.map(
        lambda contexts: jax.vmap(bayesian.answer, (None, 0, 0))(
            head, jax.vmap(embed_texts)(contexts), images),
        jnp.stack([adapted[name].context for name in tuned]))
    found |= {name: jax.tree.map(lambda x, i=i: x[i], answers)
              for i, name in enumerate(tuned)}
  return {
      f"{name}+{form}": {"logits": logits, **adapted[name].info._asdict(),
                         **doubt._asdict()}
      for name, answers in found.items()
      for form, (logits, doubt) in answers.items()}


def _one_behind(batches, function):
  """(batch, result) pairs; the next batch is under way before one is used."""
  waiting = None
  for batch in batches:
    result = function(batch)
    if waiting is not None:
      yield waiting
    waiting = batch, result
  if waiting is not None:
    yield waiting


def _write(parts, image_set, batch, answers):
  """Checks and writes this process's share of a batch, without the filling."""
  if not batch.mask.any():
    return
  positions = batch.positions[batch.mask]
  answers = {name: {field: value[batch.mask] for field, value in one.items()}
             for name, one in answers.items()}
  for name, one in answers.items():
    _check_finite(one["logits"], f"logits of {name}",
                  [image_set.ids[position] for position in positions])
  parts_lib.write(parts, positions, answers)


def _check_finite(rows, what, names):
  broken = ~np.isfinite(np.asarray(rows)).all(-1)
  if broken.any():
    raise ValueError(
        f"the {what} are not finite for {broken.sum()} of {len(broken)}, the "
        f"first one {names[int(broken.argmax())]!r}. The weights were "
        "finite when they were loaded: do they overflow in this dtype?")
