"""What a config says of the predictions for one image set, in a run's folder.

  asked = config_runs.asked(
      config, model, images, config_methods.methods_of(config), output,
      identity=load.identity_of(images))
  about = dict.fromkeys(asked.methods, {})
  for name, path in config_runs.predict(config, model, asked, about):
    ...
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import pathlib
from typing import Any, NamedTuple

from jaxcal import config as config_lib
from jaxcal import config_inputs
from jaxcal import memory
from jaxcal import predictions as predictions_lib
from jaxcal import run
from jaxcal import runs
from jaxcal import stages
from jaxcal import streams
from jaxcal.adapt import orders
from jaxcal.adapt.prompt import flatness
from jaxcal.adapt.prompt import pretraining
from jaxcal.clip import checkpoint
from jaxcal.data import corruptions
from jaxcal.data import image_set as image_sets
from jaxcal.posterior import head as heads
from jaxcal.tuning import checkpoint as tuned_files
from jaxcal.tuning import evidence
from jaxcal.tuning import saved

_Config = config_lib.ExperimentConfig
# Fields that `remarks` tells of, by which it would differ within a sweep.
REMARKED = frozenset({"stream.order", "stream.imbalance",
                      "stream.corrupted_share", "data.corruption_seed"})
# What the identity of images of other classes begins with.
_OTHERS = f"{predictions_lib.OUT_OF_DISTRIBUTION}."


class Place(NamedTuple):
  """Images whose predictions have a folder of their own.

  Attributes:
    name: Place of the set among the predictions.
    images: The image set.
    posterior: Posterior that predicts in its forms, too; None without.
    others: Images of other classes in the stream of these; None without.
    in_stream: Whether test-time methods predict them in the stream of another
      place, so that here tuned parameters alone do.
  """

  name: str
  images: image_sets.ImageSet
  posterior: heads.Chosen | None = None
  others: image_sets.ImageSet | None = None
  in_stream: bool = False


def places(
    config: _Config,
    data: str,
    images: image_sets.ImageSet,
    *,
    validation: Mapping[str, image_sets.ImageSet] = {},
    outside: image_sets.ImageSet | None = None,
    posterior: heads.Chosen | None = None,
) -> Iterator[Place]:
  """A set and what is predicted beside it.

  Args:
    config: Settings of the experiment.
    data: Name of the set.
    images: The image set.
    validation: Images that a temperature is fitted to, by the name of the set.
    outside: Image set of other classes; None without.
    posterior: Posterior that predicts in its forms, too; None without.
  """
  others = _others(config, images, outside)
  yield Place(data, images, posterior, others)
  if validation:
    yield Place(f"{data}/{config.temperature.split}", validation[data])
  if outside is not None and outside.name != images.name:
    yield Place(
        f"{data}/{predictions_lib.OUT_OF_DISTRIBUTION}",
        image_sets.unlabelled(
            outside if others is None else others, images.class_names),
        posterior if others is None else None, in_stream=others is not None)


def num_others(
    config: _Config, sets: Mapping[str, image_sets.ImageSet]) -> int:
  """Images of other classes that the streams of some sets take at most.

  Args:
    config: Settings of the experiment.
    sets: The image sets by name.
  """
  share = config.stream.outlier_share
  return max(image_sets.num_of_share(len(images.ids), share)
             for images in sets.values()) if share else 0


def _others(config, images, outside):
  """The images of other classes in the stream of a set; None without."""
  share = config.stream.outlier_share
  if not share or outside is None or outside.name == images.name:
    return None
  return image_sets.limit(
      outside, image_sets.num_of_share(len(images.ids), share))


def asked(
    config: _Config,
    model: checkpoint.Model,
    images: image_sets.ImageSet,
    methods: run.Methods,
    output: pathlib.Path,
    *,
    identity: Mapping[str, Any],
    place: str | None = None,
    posterior: heads.Chosen | None = None,
    others: image_sets.ImageSet | None = None,
    identity_of_others: Mapping[str, Any] = {},
    called: Mapping[str, str] = {},
) -> runs.Asked:
  """What some methods are to predict for an image set.

  Args:
    config: Settings of the experiment.
    model: Model from `config_inputs.load_model`.
    images: The image set, its name that of a store if the config has one.
    methods: Numbers of the methods, by file name.
    output: Folder of the run.
    identity: Identity of the images, see `load.identity_of`.
    place: Place of the set among the predictions; its name if None.
    posterior: Posterior that predicts in its forms, too; None without.
    others: Images of other classes in the same stream; None without.
    identity_of_others: Identity of these.
    called: See `runs.Asked`.
  """
  place = images.name if place is None else place
  imbalance = config.stream.imbalance
  common = {**identity, **config_inputs.identity_of_features(config, model),
            **config_inputs.identity_of_prompts(config),
            **({} if imbalance == 1 else {"stream.imbalance": imbalance})}
  if others is not None:
    images = image_sets.joined(images, others)
    common |= {"stream.outlier_share": config.stream.outlier_share, **{
        f"{_OTHERS}{name}": value
        for name, value in identity_of_others.items()}}
  of_posterior = None if posterior is None else heads.identity_of_head(
      posterior, num_samples=config.posterior.num_samples,
      seed=config.posterior.seed)
  return runs.asked(
      place, output / "predictions" / place, images, methods, common=common,
      order={"stream.order": config.stream.order,
             "stream.seed": config.stream.seed},
      feature_size=model.config.projection,
      order_seeds=config.stream.seeds, posterior=of_posterior,
      evidence=_evidence(config, run.EVIDENCE), called=called,
      # A set's place may lie within that of another one, its store must not.
      store=output / "features" / f"{place.replace('/', ' ')}.views",
      num_others=0 if others is None else len(others.ids))


def remarks(
    config: _Config, sets: Mapping[str, image_sets.ImageSet],
    outside: image_sets.ImageSet | None = None
) -> dict[str, str]:
  """Sentences on streams that are not at random or not of all images alike.

  Args:
    config: Settings of the experiment.
    sets: The image sets before images are left out.
    outside: Image set of other classes; None without.

  Returns:
    Sentences by the name of the set, or "order" for all of them.
  """
  found = {}
  if config.stream.order == "sorted":
    found["order"] = ("Methods with a state see the images sorted, one class "
                      "after the other (stream.order).")
  for data, images in sets.items():
    kept = image_sets.imbalanced(images, config.stream.imbalance)
    told = [*_on_imbalance(config, images, kept), *_on_corruption(config, kept),
            *_on_others(config, kept, outside)]
    if told:
      found[data] = " ".join(f"{data}: {sentence}" for sentence in told)
  return found


def _on_imbalance(config, images, kept):
  ratio = config.stream.imbalance
  if ratio > 1:
    yield (f"{len(kept.ids):,} of {len(images.ids):,} images are kept; the "
           f"share of a class falls exponentially from 1 to 1/{ratio:g}, in "
           "the order of the classes (stream.imbalance).")


def _on_corruption(config, images):
  share = config.stream.corrupted_share
  corruption = config_inputs.corruption(config.data, share)
  if corruption is not None and share < 1:
    number = sum(corruptions.is_corrupted(image_id, corruption)
                 for image_id in images.ids)
    yield (f"{number:,} of {len(images.ids):,} images, chosen at random, are "
           "corrupted, the others are as they were taken "
           f"(stream.corrupted_share={share:g}).")


def _on_others(config, images, outside):
  share = config.stream.outlier_share
  others = _others(config, images, outside)
  if others is not None:
    number, total = len(others.ids), len(others.ids) + len(images.ids)
    fewer = ("" if number == image_sets.num_of_share(len(images.ids), share)
             else f", all that there are where {share:g} was asked for")
    yield (f"{number:,} images of {outside.name} are in its stream of "
           f"{total:,}, a share of {number / total:.3g}{fewer}; every score "
           "but those of detection is of its own images alone "
           "(stream.outlier_share).")
  elif share:
    yield (f"no images of other classes are in its stream, as {outside.name} "
           "is the set itself (stream.outlier_share).")


def asked_of_tuned(
    config: _Config,
    of: runs.Asked,
    seeds: Mapping[stages.Stages, tuned_files.Tuned],
    about: Mapping[str, Any],
    *,
    template: str,
) -> list[saved.Asked]:
  """What tuned parameters are to predict for the same images.

  Args:
    config: Settings of the experiment.
    of: Predictions from `asked`.
    seeds: Tuned parameters from `tuning.saved.load`.
    about: Settings to write into the predictions.
    template: Prompt of what is not tuned.
  """
  # More evidence than asked for does no harm to what is there.
  common = {key: value for key, value in of.common.items()
            if key != "evidence"}
  return saved.asked(
      seeds, of.folder, common, about, template=template,
      evidence=_evidence(config, evidence.NAMES))


def check_evidence(config: _Config) -> None:
  """Refuses evidence that nobody computes.

  Raises:
    ValueError: Names the first of it.
  """
  known = {*run.EVIDENCE, *(evidence.NAMES if config.method.tuned else ())}
  for name in config.evidence:
    if name not in known:
      why = ("is of tuned parameters: give them with --config.method.tuned"
             if name in evidence.NAMES else "cannot be computed here; choose "
             f"from: {', '.join(sorted(known))}.")
      raise ValueError(f"--config.evidence={name} {why}")


def predict(
    config: _Config,
    model: checkpoint.Model,
    of: runs.Asked,
    about: Mapping[str, Mapping[str, Any]],
    *,
    posterior: heads.Chosen | None = None,
    on_batch: Callable[[int, int], None] | None = None,
    on_step: Callable[[str, float, int], None] | None = None,
    on_flat_step: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[tuple[str, pathlib.Path]]:
  """Names of the predictions and their paths, as they are saved.

  Args:
    config: Settings of the experiment.
    model: Model from `config_inputs.load_model`.
    of: Predictions from `asked`.
    about: Settings to write into each one's predictions, by method.
    posterior: Posterior that predicts in its forms, too; None without.
    on_batch: See `run.iterate`.
    on_step: See `run.iterate`.
    on_flat_step: Function called with the steps of flatness-aware pre-training
      done and in all.

  Raises:
    ValueError: Predictions of something else lie there.
  """
  num_classes = len(of.images.class_names)

  def compute(
      methods: run.Methods, settings: Mapping[str, Mapping[str, Any]],
      parts: pathlib.Path, seeds: Sequence[int]
  ) -> Iterator[tuple[str, run.Predictions]]:
    head = None if posterior is None else heads.head(
        posterior, model, num_classes,
        num_samples=config.posterior.num_samples, seed=config.posterior.seed)
    task = config_inputs.task(config, model, of.images.class_names)
    if config.method.context == "fpp":
      task = task._replace(context=pretraining.flat_context(
          task, _flatness(config.fpp), of.folder / "fpp.npz",
          seed=config.fpp.seed, from_words=config.fpp.from_template,
          identity=of.common, progress=on_flat_step))
    source = config_inputs.source(
        config, model, of.images, store=of.store, identity=_files(of),
        progress=None if on_step is None else (
            lambda what, done, total: on_step("image tower", done, total)))
    shared: dict[str, Any] = dict(
        evidence=_evidence(config, run.EVIDENCE), parts=parts,
        identity=of.common, about=settings, on_batch=on_batch)
    order = lambda seed: orders.order(
        config.stream.order, of.images.labels[:of.num_own], seed,
        num_others=of.num_others)
    if seeds:
      run.check(methods, task, source)
      run.check_head(head, of.methods, task)
      return streams.iterate(
          methods, task, source, {seed: order(seed) for seed in seeds},
          **shared)
    return run.iterate(
        methods, task, source, order=order(config.stream.seed), head=head,
        linearisation=config.linearisation, max_bytes=memory.shares(
            config_inputs.budget(config)).jacobian,
        batch_size=config.batch_size, on_step=on_step, **shared)

  return runs.predict(of, compute, about)


def _files(of):
  """What the files of all images hold, as the store of their views asks."""
  held = (of.common.get(f"{begin}data.contents") for begin in ("", _OTHERS))
  return {"data.contents": " ".join(filter(None, held)) or None}


def _flatness(config: config_lib.FppConfig) -> flatness.Recipe:
  return flatness.Recipe(
      learning_rate=config.learning_rate, num_steps=config.num_steps,
      flatness_weight=config.flatness_weight)


def _evidence(config: _Config, known: Sequence[str]) -> tuple[str, ...]:
  """What of the evidence that is asked for can be computed."""
  return tuple(name for name in config.evidence if name in known)
