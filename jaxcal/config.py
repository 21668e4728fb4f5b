"""The experiment as typed dataclasses, one field per decision.

Files in `configs/` build an `ExperimentConfig`; the command line overrides
single fields. Library functions never see these objects. Only the standard
library is imported.
"""

import ast
from collections.abc import Iterator, Mapping, Sequence
import csv
import dataclasses
import functools
import math
import os
import re
import types
import typing
from typing import Any, NamedTuple

# Those of `jaxcal.precision`, which needs jax.
_PRECISIONS = ("highest", "high", "default", "bfloat16")
# Fields that do not change the numbers, so that a run may go on with others.
FREE = ("config.batch_size", "config.num_threads", "config.memory_gb",
        "config.data.root", "config.data.store", "config.posterior.folder")
# Numbers below config.method, of which all values of a sweep share a pass.
NUMBERS = ("weight", "effective_weight", "delta", "quantile", "learning_rate",
           "weight_decay", "num_steps", "selection_fraction")
# Views per image where views.number is None.
NUM_VIEWS = 64
# Clean views that take the place of an image with all of its views.
_CLEAN_VIEWS = 8
_MOST_GB = 10**6
# How a flag or a file says that a field is None.
NONE = ("", "none", "None")
_BOOLEANS = {"true": True, "false": False, "1": True, "0": False}
_EXPECTED = {str: "a text", float: "a finite number", int: "a whole number",
             bool: "true or false", tuple: "names"}


def _field(default: Any, about: str) -> Any:
  return dataclasses.field(default=default, metadata={"help": about})


def _path(default: Any, about: str) -> Any:
  """A field with a path in it, of which ~ is the home folder."""
  return dataclasses.field(
      default=default, metadata={"help": about, "path": True})


@dataclasses.dataclass(kw_only=True, slots=True)
class ModelConfig:
  """Which checkpoint."""

  name: str = _path(
      "testbed", "'testbed' (the small CLIP that ships with jaxcal), "
      "'testbed-stress' (its variant for configs/stress.py), a folder, or a "
      "Hugging Face hub id such as openai/clip-vit-base-patch16")
  image_precision: str = _field(
      "auto", "precision of the image tower: 'highest' (float32 in effect), "
      "'high' "
      "(three passes of bfloat16 on TPUs, TensorFloat-32 on GPUs), 'default' "
      "(float32 stored, multiplied as the hardware does by default), "
      "'bfloat16', or 'auto': bfloat16 on accelerators, highest elsewhere")
  text_precision: str = _field(
      "highest", "precision of the text tower: 'highest', 'high', 'default' or "
      "'bfloat16'; all that follows the towers is at highest in any case")


@dataclasses.dataclass(kw_only=True, slots=True)
class DataConfig:
  """Which images, and what their classes are called."""

  name: tuple[str, ...] = _path(
      ("shapes", "compositions", "shades", "digits"),
      "image sets, separated by commas or by giving the flag several times: "
      "testbed sets, benchmark sets (with root), folders with one sub-folder "
      "per class, CSV files with the columns path,label, parquet files, tars "
      "or lists (docs/data.md); ./NAME is a folder "
      "that is called like one of the others")
  root: str | None = _path(
      None, "folder that holds the benchmark sets, each in its usual layout")
  split: str = _field(
      "test", "split of the benchmark and testbed sets; the latter also have "
      "'train' "
      "and 'validation'")
  domain: str | None = _field(
      None, "domain that is kept, of folders and lists of DOMAIN/CLASS/FILE as "
      "Office-Home has them; all of them if None")
  source: str = _field(
      "files", "form of the benchmark sets: 'files', or 'tfds' for sets "
      "prepared by "
      "tensorflow-datasets")
  partial: bool = _field(
      False, "accept benchmark sets of which files are missing")
  on_bad_image: str = _field(
      "fail", "what is done about images that cannot be used: 'fail', before "
      "the work as far as headers tell, or 'skip', which decodes every image "
      "once before the work and leaves out, and lists, what cannot be")
  classes: str = _field(
      "all", "classes of each set, as images and as candidates: 'all', or "
      "'base' or "
      "'new', the halves of few-shot tuning")
  store: str | None = _path(
      None, "folder with stored features, see `jaxcal features`; images are "
      "not needed then")
  limit: int = _field(
      0, "images per set, spread over the classes; 0 for all of them")
  skip: int = _field(
      0, "images of each set to leave out before these, in the same order, as "
      "those that a choice was made on")
  class_names: str | None = _path(
      None, "text file with one class name per line, in label order, for "
      "folders and CSV files whose own names are not to be used")
  family: str | None = _field(
      None, "family of the image sets, of which protocol=paper knows that of "
      "benchmark sets alone: 'fine_grained' or 'shift'")
  template: str = _field(
      "a photo of a {}.", "prompt; the words before {} are the initial context")
  corruption: str | None = _field(
      None, "corruption of the images as in ImageNet-C, such as "
      "gaussian_noise, fog or elastic_inet; of imagenet_c, its folder")
  severity: int | None = _field(
      None, "severity of the corruption, from 1 to 5")
  corruption_of: str = _field(
      "crop", "what is corrupted: 'crop', the central 224 x 224 pixels once "
      "the shorter side has 256, as in ImageNet-C; or 'image', the whole image")
  corruption_seed: int = _field(
      0, "seed of what is random in it, beside the image's id")
  frost_pictures: str | None = _path(
      None, "folder with pictures of ice, for the corruption frost")
  out_of_distribution: str | None = _path(
      None, "image set of other things, predicted among the classes of each "
      "of the sets: tells how well uncertainty points out what is none of them")


@dataclasses.dataclass(kw_only=True, slots=True)
class ViewsConfig:
  """Which views of an image the method sees; the first is the clean one."""

  number: int | None = _field(
      None, "views per image, the clean one included; 64 if None")
  min_area: float = _field(
      0.08, "smallest part of the image that a random crop covers")
  max_area: float = _field(
      1.0, "largest part of the image that a random crop covers")
  flip_probability: float = _field(
      0.5, "probability that a random crop is flipped")
  augmix: bool | None = _field(
      None, "AugMix on the random views; if None, what protocol says, or not")
  seed: int = _field(
      0, "seed of the random views, beside the image's id and their number")

  @property
  def count(self) -> int:
    """Views per image, the clean one included."""
    return NUM_VIEWS if self.number is None else self.number


@dataclasses.dataclass(kw_only=True, slots=True)
class ZeroShotConfig:
  """Numbers of zero-shot, whose diagnostics look at selected views.

  Here and in the classes below, None is the method's own default.
  """

  selection_fraction: float | None = _field(
      None, "share of the views, those of lowest entropy, that count")


@dataclasses.dataclass(kw_only=True, slots=True)
class TptConfig(ZeroShotConfig):
  """Numbers of TPT."""

  learning_rate: float | None = _field(None, "step size of AdamW")
  weight_decay: float | None = _field(None, "decay of AdamW")
  num_steps: int | None = _field(None, "optimiser steps per image")


@dataclasses.dataclass(kw_only=True, slots=True)
class RegularisedConfig(TptConfig):
  """Numbers of C-TPT, O-TPT and A-TPT."""

  weight: float | None = _field(None, "factor of the regulariser")
  effective_weight: float | None = _field(
      None, "in place of weight: weight times the norm of the regulariser's "
      "gradient by the context where images start")


@dataclasses.dataclass(kw_only=True, slots=True)
class SocConfig(RegularisedConfig):
  """Numbers of SoC with a constant margin."""

  delta: float | None = _field(
      None, "margin of the Huber penalty on cosines, in (0, 1]")
  delta_quantile: float | None = _field(
      None, "in place of delta: quantile of the zero-shot cosines of the "
      "classes at which the margin is, in [0, 1]")


@dataclasses.dataclass(kw_only=True, slots=True)
class SocQuantileConfig(TptConfig):
  """Numbers of SoC with a margin at a quantile."""

  weight: float | None = _field(
      None, "worth of the regulariser, in entropies of the image")
  quantile: float | None = _field(
      None, "quantile of the similarities at which the margin is, in [0, 1]")


@dataclasses.dataclass(kw_only=True, slots=True)
class RTptConfig(TptConfig):
  """Numbers of R-TPT."""

  num_neighbours: int | None = _field(
      None, "views nearest to a view that tell how reliable it is")
  temperature: float | None = _field(
      None, "temperature of the weights of the views")


@dataclasses.dataclass(kw_only=True, slots=True)
class RlcfConfig(TptConfig):
  """Numbers of RLCF."""

  num_sampled: int | None = _field(
      None, "classes of each view whose likelihood is rewarded")


@dataclasses.dataclass(kw_only=True, slots=True)
class MtaConfig:
  """Numbers of MTA."""

  inlier_entropy: float | None = _field(
      None, "weight of the entropy of the inlierness")
  affinity: float | None = _field(
      None, "weight of the agreement between views")


@dataclasses.dataclass(kw_only=True, slots=True)
class ZeroConfig(ZeroShotConfig):
  """Numbers of ZERO."""

  smoothing: float | None = _field(
      None, "votes that are added, spread evenly over the classes")
  fallback: str | None = _field(None, "what decides between tied classes")


@dataclasses.dataclass(kw_only=True, slots=True)
class TpsConfig(TptConfig):
  """Numbers of TPS, those of TPT."""


@dataclasses.dataclass(kw_only=True, slots=True)
class TdaConfig:
  """Numbers of TDA."""

  alpha: float | None = _field(None, "weight of the positive cache")
  beta: float | None = _field(None, "sharpness of the positive cache")
  negative_alpha: float | None = _field(None, "weight of the negative cache")
  negative_beta: float | None = _field(None, "sharpness of the negative cache")
  entropy_above: float | None = _field(
      None, "entropy above which an image may enter the negative cache")
  entropy_below: float | None = _field(
      None, "entropy below which an image may enter the negative cache")
  capacity: int | None = _field(
      None, "images per class in the positive cache")
  negative_capacity: int | None = _field(
      None, "images per class in the negative cache")
  negative_keeps: str | None = _field(
      None, "what a full class of the negative cache keeps: 'lowest_entropy' "
      "or 'newest'")
  selection_fraction: float | None = _field(
      None, "share of the views, those of lowest entropy, that are confident")
  predicted: str | None = _field(
      None, "what is predicted and remembered: 'clean', or the mean of the "
      "'confident' views, as the originals do on ImageNet's variants")
  predict_first: bool | None = _field(
      None, "predict an image before it enters the caches")


@dataclasses.dataclass(kw_only=True, slots=True)
class BoostAdapterConfig(TdaConfig):
  """Numbers of BoostAdapter."""

  extra_capacity: int | None = _field(
      None, "further entries per class while an image is predicted, among them "
      "the confident views")


@dataclasses.dataclass(kw_only=True, slots=True)
class DmnWeakConfig:
  """Numbers of DMN with one view."""

  alpha: float | None = _field(None, "weight of the memory's predictions")
  beta: float | None = _field(None, "sharpness of the memory's kernel")
  capacity: int | None = _field(None, "images per class in the memory")
  replacement: str | None = _field(
      None, "rule of a full class: 'always' replaces the highest entropy, as "
      "the benchmark does, 'lower_entropy' by a lower one alone, as the "
      "original does")
  predict_first: bool | None = _field(
      None, "predict an image before it enters the memory")


@dataclasses.dataclass(kw_only=True, slots=True)
class DmnConfig(DmnWeakConfig):
  """Numbers of DMN."""

  selection_fraction: float | None = _field(
      None, "share of the views, those of lowest entropy, that count")
  average: str | None = _field(
      None, "mean over these that labels an image: of 'logits', as the "
      "benchmark does, or of 'probabilities', as the original does")


@dataclasses.dataclass(kw_only=True, slots=True)
class DpeConfig:
  """Numbers of DPE."""

  alpha: float | None = _field(None, "weight of the prototypes of images")
  beta: float | None = _field(None, "sharpness of their kernel")
  learning_rate: float | None = _field(
      None, "step size of AdamW for both kinds of prototypes")
  alignment: float | None = _field(None, "weight of InfoNCE")
  temperature: float | None = _field(None, "temperature of InfoNCE")
  entropy_below: float | None = _field(
      None, "entropy, in nats over log2 of the classes, below which an image "
      "counts for the prototypes of texts")
  capacity: int | None = _field(None, "images per class in the cache")
  selection_fraction: float | None = _field(
      None, "share of the views, those of lowest entropy, that count")
  entropy_gradient: bool | None = _field(
      None, "let the entropy move the texts, as the original does and the "
      "benchmark does not")
  predicted: str | None = _field(
      None, "what is predicted: 'clean', or the mean of the 'confident' views, "
      "as the benchmark does for ImageNet-A")
  predict_first: bool | None = _field(
      None, "predict an image before it enters the cache")


@dataclasses.dataclass(kw_only=True, slots=True)
class OnZetaConfig:
  """Numbers of OnZeta."""

  beta: float | None = _field(
      None, "weight of the learned classifier at the end of the stream")
  balance: float | None = _field(
      None, "share of 1 / classes that each class is to have at least")
  proxy_temperature: float | None = _field(
      None, "temperature of the learned classifier")
  proxy_step: float | None = _field(
      None, "step size of the learned classifier")
  dual_step: float | None = _field(None, "step size of the balance")


@dataclasses.dataclass(kw_only=True, slots=True)
class EcalpConfig:
  """Numbers of ECALP."""

  sharpness: float | None = _field(
      None, "factor of the scores in the distribution")
  image_neighbours: int | None = _field(
      None, "edges from an image to images")
  text_neighbours: int | None = _field(None, "edges from an image to texts")
  power: int | None = _field(None, "power of a similarity in a weight, even")
  num_rounds: int | None = _field(None, "rounds in which labels spread")
  length: int | None = _field(
      None, "images that there is room for; as many as there are if None")


@dataclasses.dataclass(kw_only=True, slots=True)
class DynaPromptConfig:
  """Numbers of DynaPrompt."""

  learning_rate: float | None = _field(None, "step size of AdamW")
  weight_decay: float | None = _field(None, "decay of AdamW")
  num_prompts: int | None = _field(None, "number of prompts")
  selection_fraction: float | None = _field(
      None, "share of the views, those of lowest entropy, that count")
  reset_optimiser: bool | None = _field(
      None, "let the optimiser begin anew with each image, as the original "
      "does and the benchmark does not")
  by_position: bool | None = _field(
      None, "take prompts for positions in the order of entropy, as all "
      "released code does by a slip")


@dataclasses.dataclass(kw_only=True, slots=True)
class TtlConfig:
  """Numbers of TTL."""

  learning_rate: float | None = _field(None, "step size of AdamW")
  weight_decay: float | None = _field(None, "decay of AdamW")
  num_steps: int | None = _field(None, "optimiser steps per image")
  margin: float | None = _field(
      None, "entropy in nats at which the weight of a view is one")
  alpha: float | None = _field(
      None, "size of a change, times the product of its factors over the rank")
  rank: int | None = _field(None, "rank of each change")
  num_blocks: int | None = _field(
      None, "blocks of the image tower that are changed, the last ones")
  seed: int | None = _field(None, "seed of the random factors")


def _section(kind: type) -> Any:
  return dataclasses.field(default_factory=kind)


@dataclasses.dataclass(kw_only=True, slots=True)
class MethodConfig:
  """What is done with an image before it is predicted.

  A number of one method stands in the field of its name, as in `soc.delta`.
  Those of `NUMBERS` are shorthands: of every method that has such a number and
  none of its own in its field.
  """

  name: tuple[str, ...] = _field(
      ("zero_shot", "tpt", "c_tpt", "o_tpt", "soc"),
      "methods, separated by commas")
  weight: float | None = _field(
      None, "factor of the regulariser, for every method that has one; the "
      "released default of each method if None")
  effective_weight: float | None = _field(
      None, "in place of weight, and before what protocol says: weight times "
      "the norm of the regulariser's gradient by the context where images "
      "start, so that equal ones pull equally hard; of every method with a "
      "constant weight")
  delta: float | None = _field(
      None, "margin of soc's Huber penalty on cosines; 0.85 if None")
  quantile: float | None = _field(
      None, "quantile of the similarities at which soc_quantile has its "
      "margin; 0.2 if None")
  learning_rate: float | None = _field(
      None, "step size of AdamW; the method's own (0.005, 0.007 for rlcf, or "
      "0.0006 for dpe) if None")
  weight_decay: float | None = _field(
      None, "decay of AdamW; the method's own (0.01 as in PyTorch, or 0.0005 "
      "for rlcf) if None")
  num_steps: int | None = _field(
      None, "optimiser steps per image; the method's own (1, 2 for "
      "c_tpt_two_step, or 3 for rlcf) if None")
  selection_fraction: float | None = _field(
      None, "share of the views, those of lowest entropy, that count; the "
      "method's own (0.1, or 0.3 for zero) if None")
  zero_shot: ZeroShotConfig = _section(ZeroShotConfig)
  tpt: TptConfig = _section(TptConfig)
  c_tpt: RegularisedConfig = _section(RegularisedConfig)
  c_tpt_two_step: RegularisedConfig = _section(RegularisedConfig)
  o_tpt: RegularisedConfig = _section(RegularisedConfig)
  o_tpt_published: RegularisedConfig = _section(RegularisedConfig)
  a_tpt: RegularisedConfig = _section(RegularisedConfig)
  a_tpt_inverted: RegularisedConfig = _section(RegularisedConfig)
  soc: SocConfig = _section(SocConfig)
  soc_quantile: SocQuantileConfig = _section(SocQuantileConfig)
  r_tpt: RTptConfig = _section(RTptConfig)
  rlcf: RlcfConfig = _section(RlcfConfig)
  mta: MtaConfig = _section(MtaConfig)
  zero: ZeroConfig = _section(ZeroConfig)
  tps: TpsConfig = _section(TpsConfig)
  tda: TdaConfig = _section(TdaConfig)
  boostadapter: BoostAdapterConfig = _section(BoostAdapterConfig)
  dmn: DmnConfig = _section(DmnConfig)
  dmn_weak: DmnWeakConfig = _section(DmnWeakConfig)
  dpe: DpeConfig = _section(DpeConfig)
  onzeta: OnZetaConfig = _section(OnZetaConfig)
  ecalp: EcalpConfig = _section(EcalpConfig)
  dynaprompt: DynaPromptConfig = _section(DynaPromptConfig)
  ttl: TtlConfig = _section(TtlConfig)
  context: str = _path(
      "template", "context at which every image starts: 'template', the words "
      "before the "
      "class name, 'fpp', a context pre-trained to be flat, or a "
      "seed-N.safetensors of `jaxcal tune` with a context that all classes "
      "share")
  adapter: str | None = _path(
      None, "adapter below every method: a seed-N.safetensors of `jaxcal tune` "
      "with clip_adapter, which moves the features of images, or with taskres, "
      "which moves those of its classes; prompts are those of its training")
  tuned: tuple[str, ...] = _path(
      (), "tuned parameters that predict beside these methods: a "
      "folder tuned/SET/METHOD or a single seed-N.safetensors; several by "
      "giving the flag several times")


@dataclasses.dataclass(kw_only=True, slots=True)
class StreamConfig:
  """How methods with a state, such as tda, see the images."""

  order: str = _field(
      "shuffled", "order of the images: 'shuffled' at random, 'given', as they "
      "come, or 'sorted', one class after the other, the classes and the "
      "images of each at random")
  seed: int = _field(0, "seed of the random order")
  orders: int = _field(
      1, "orders that every method with a state sees the images in, of seeds "
      "stream.seed, stream.seed + 1, ...: METHOD-orderSEED, and means over "
      "them")
  imbalance: float = _field(
      1.0, "number of times that the first class is as frequent as the last: "
      "the share of its images that is kept of a class falls exponentially "
      "from 1 to 1 / imbalance, for all methods; 1 keeps all")
  outlier_share: float = _field(
      0.0, "share of the stream that is images of data.out_of_distribution, "
      "mixed into that of each of the sets for all methods; 0 predicts them "
      "in a stream of their own")
  corrupted_share: float = _field(
      1.0, "share of the images, chosen at random by data.corruption_seed and "
      "the image's id, that data.corruption is done to, for all methods; the "
      "others stay as they were taken")

  @property
  def seeds(self) -> tuple[int, ...]:
    """Seeds of several orders; none where there is one order."""
    return () if self.orders == 1 else tuple(
        range(self.seed, self.seed + self.orders))


@dataclasses.dataclass(kw_only=True, slots=True)
class FppConfig:
  """Flatness-aware pre-training, where method.context is 'fpp'."""

  num_steps: int = _field(1000, "number of steps of AdamW")
  learning_rate: float = _field(
      1e-2, "step size at the start; cosine to 1e-4")
  flatness_weight: float | None = _field(
      None, "weight of the flatness term; 1 + 15 / classes if None")
  from_template: bool = _field(
      False, "whether to start from the template's words, not from random "
      "vectors")
  seed: int = _field(0, "seed of the noise and of the random start")


@dataclasses.dataclass(kw_only=True, slots=True)
class PosteriorConfig:
  """BayesVLM on top of every method: METHOD+diagonal, +full and +tangent."""

  folder: str | None = _path(
      None, "folder with a Laplace posterior, see `jaxcal posterior fit`; none "
      "if None")
  pseudo_count: float | None = _field(
      None, "number of times that the evidence of each fitted pair counts; the "
      "prior precision is fitted anew for it. That of the folder if None")
  num_samples: int = _field(
      100, "number of samples of the logits, for uncertainty that is the "
      "model's (epistemic) or the image's (aleatoric)")
  seed: int = _field(0, "seed of these samples")


@dataclasses.dataclass(kw_only=True, slots=True)
class TemperatureConfig:
  """Temperature scaling as a baseline: METHOD+temperature."""

  split: str | None = _field(
      None, "split of each image set whose labels choose the temperature of "
      "each method; none if None")
  limit: int = _field(
      0, "number of images of that split; 0 for all of them")


@dataclasses.dataclass(kw_only=True, slots=True)
class ChoiceConfig:
  """Numbers of methods chosen on other images, by a sweep over these."""

  sweep: str | None = _path(
      None, "folder of a `jaxcal sweep` over images of another split, of which "
      "each method takes the best numbers where none are given; none if None")
  by: str = _field(
      "nll", "score by which they are the best: 'nll', 'brier', 'ece', 'aurc' "
      "or 'accuracy'")
  scope: str = _field(
      "each", "images on which: those of 'each' image set for itself, or of "
      "'all' sets, for one choice by the mean over them")


@dataclasses.dataclass(kw_only=True, slots=True)
class TuneConfig:
  """Few-shot tuning on the base classes, `jaxcal tune`."""

  name: tuple[str, ...] = _field(
      ("coop", "kgcoop"), "methods, separated by commas")
  dor: tuple[str, ...] = _field(
      ("without", "with"), "runs of each method 'without' regularisation on "
      "outliers (DOR), 'with' it, or both, separated by commas; methods that "
      "do not allow it run without")
  logit_range: tuple[str, ...] = _field(
      ("free",), "runs of each method with the range of its logits in training "
      "'free', moved to that of zero-shot ('zs_norm') or penalised where it "
      "leaves that ('penalty'), separated by commas")
  classes: str = _field(
      "base", "classes to train on: 'base', the first half, so that base and "
      "new "
      "ones are predicted; or 'all', e.g. to predict other image sets later")
  train: str | None = _path(
      None, "image set to draw the shots from, with the same classes; if None, "
      "the split 'train' of the set itself")
  num_shots: int = _field(16, "training images of each class")
  num_seeds: int = _field(3, "seeds 1, 2, ... of shots and training")
  allow_fewer: bool = _field(
      False, "take all images of a class that has fewer than num_shots")
  preset: str = _field(
      "dor", "source of the recipes: 'upstream', each method's own, or 'dor', "
      "those of "
      "the paper on outlier regularisation")
  num_epochs: int | None = _field(
      None, "number of epochs; the recipe's if None")
  learning_rate: float | None = _field(
      None, "step size at the start; the recipe's if None")
  batch_size: int | None = _field(
      None, "training images per step; the recipe's if None")
  num_context: int | None = _field(
      None, "number of context vectors; the recipe's if None")
  class_position: str = _field(
      "end", "position of the class name: 'end', after the context vectors, "
      "'middle' or "
      "'front'")
  num_views: int = _field(
      0, "augmented views of each training image, of which every epoch sees "
      "one; 0 for the clean view alone")
  template: str | None = _field(
      None, "prompt of zero-shot predictions and of what methods are "
      "regularised to; if None, that of the few-shot papers for benchmark "
      "sets, else data.template")
  templates: str | None = _path(
      None, "text file with one template per line, to whose mean promptsrc is "
      "regularised; the one template if None")
  seeds_at_once: int = _field(
      0, "number of seeds that are trained together; fewer need less memory, 0 "
      "for all")
  outlier_weight: float | None = _field(
      None, "weight of the outlier term; the published one of each base method "
      "if None")
  cache_weight: float = _field(
      1.0, "weight of what tip_adapter and tip_adapter_f look up (alpha)")
  cache_sharpness: float = _field(
      1.0, "sharpness of that: the greater, the less distant shots count "
      "(beta)")
  outliers: str = _path(
      "tokenizer", "words to draw from: 'wordnet', 'wordnet:FOLDER', "
      "'tokenizer', or a file with one word per line")
  num_outliers: int = _field(
      5000, "number of words, those nearest to the base classes")
  draw: str = _field(
      "shuffled", "how outliers are drawn in each step: 'shuffled', without "
      "replacement until all are used, 'iid', or 'fixed', the same ones")
  outlier_images: str | None = _path(
      None, "image set of other things, on which clip_adapter is "
      "regularised with DOR")
  exclude_new: bool = _field(
      False, "whether the new classes' names are left out of the outliers; as "
      "published, they may be among them")


@dataclasses.dataclass(kw_only=True, slots=True)
class MetricsConfig:
  """How predictions become numbers."""

  num_bins: int = _field(
      20, "number of bins of the calibration error, of equal width")
  edges: str = _field(
      "right", "edges of the bins: 'right', (lo, hi], as in the test-time "
      "tuning papers; "
      "'left': [lo, hi)")
  level: float = _field(0.95, "level of the bootstrap intervals")
  num_resamples: int = _field(1000, "number of resamples of the bootstrap")
  seed: int = _field(
      0, "seed of the bootstrap and of the calibration floor")


@dataclasses.dataclass(kw_only=True, slots=True)
class ExperimentConfig:
  """One run of `jaxcal evaluate`, `sweep`, `features`, `posterior` or `tune`.
  """

  protocol: str = _field(
      "defaults", "source of what is left None: 'defaults', those of the "
      "methods on all image sets, or 'paper', weights of the regularisers, "
      "AugMix and views as published for the family of each image set")
  model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
  data: DataConfig = dataclasses.field(default_factory=DataConfig)
  views: ViewsConfig = dataclasses.field(default_factory=ViewsConfig)
  method: MethodConfig = dataclasses.field(default_factory=MethodConfig)
  methods: Mapping[str, Any] = dataclasses.field(
      default_factory=dict, metadata={
          "help": "test-time methods of your own by name, for method.name; in "
                  "config files only"})
  stream: StreamConfig = dataclasses.field(default_factory=StreamConfig)
  fpp: FppConfig = dataclasses.field(default_factory=FppConfig)
  posterior: PosteriorConfig = dataclasses.field(
      default_factory=PosteriorConfig)
  temperature: TemperatureConfig = dataclasses.field(
      default_factory=TemperatureConfig)
  choice: ChoiceConfig = dataclasses.field(default_factory=ChoiceConfig)
  tune: TuneConfig = dataclasses.field(default_factory=TuneConfig)
  metrics: MetricsConfig = dataclasses.field(default_factory=MetricsConfig)
  reference: str | None = _field(
      None, "predictions that all others are compared with: one of the "
      "methods; tpt if None, or zero_shot without it")
  batch_size: int = _field(
      8, "images per device and step; no influence on the numbers")
  num_threads: int = _field(4, "number of threads that read images")
  memory_gb: float | None = _field(
      None, "bound for what a run holds on each device; if none, three "
      "quarters of its memory, and 4 on a CPU")
  evidence: tuple[str, ...] = _field(
      (), "arrays that predictions carry for recalibrators, separated by "
      "commas: "
      "image_features, zero_shot_text_features, zero_shot_logits, mean_cosine, "
      "view_logits, zero_shot_view_logits; and of tuned parameters "
      "text_features, base_text_features, base_zero_shot_text_features")
  linearisation: str = _field(
      "auto", "linearisation of the text tower at the initial context: 'vjp', "
      "'jacobian', or "
      "'auto': the faster one for the number of images")

  @property
  def clean_batch_size(self) -> int:
    """Images per device and step where only their clean views are seen."""
    return self.batch_size * _CLEAN_VIEWS

  @property
  def num_views_computed(self) -> int:
    """Views of an image that go through the tower; 0 where a store has them."""
    return 0 if self.data.store is not None else self.views.count


def parse(text: str, annotation: Any) -> Any:
  """The value that a text from the command line has as a field's.

  Args:
    text: Text of the flag, without spaces around it.
    annotation: Type of the field: str, int, float, bool or `T | None`, for
      which one of `NONE` is None.

  Raises:
    ValueError: Says what was expected.
  """
  kind, or_none = _kind_of(annotation)
  if or_none and text in NONE:
    return None
  try:
    value = _BOOLEANS[text.lower()] if kind is bool else kind(text)
  except (KeyError, ValueError):
    value = None
  if not _is_a(value, kind):
    raise ValueError(f"{text!r} is not {_expected(kind, or_none)}")
  return value


def split(text: str) -> list[str]:
  """Values separated by commas; one with a comma in it stands in quotes.

  Args:
    text: Values as a line of a CSV file has them; spaces around them are
      dropped.

  Raises:
    ValueError: A quote is not closed, or something follows where it is.
  """
  try:
    values, = csv.reader([text], skipinitialspace=True, strict=True)
  except (csv.Error, ValueError) as error:
    raise ValueError(
        f"{text!r} is no list of values: separate them by commas, and put one "
        f'that has a comma in it into double quotes, as in "a, b",c '
        f"({error})") from error
  return [value.strip() for value in values]


class Field(NamedTuple):
  """A field of a config.

  Attributes:
    name: Dotted name, as flags have it.
    part: Dataclass that holds the value.
    key: Name of the field in there.
    kind: Type of the value, with `| None` where it may be None.
    is_path: Whether the value is a path, or may be one.
    about: What the field is for.
  """

  name: str
  part: Any
  key: str
  kind: Any
  is_path: bool
  about: str

  @property
  def value(self) -> Any:
    """The value that it has."""
    return getattr(self.part, self.key)

  @property
  def may_be_none(self) -> bool:
    """Whether None is a value of it."""
    return _kind_of(self.kind)[1]

  @property
  def is_of_one_method(self) -> bool:
    """Whether it is a number of one method, as config.method.soc.delta is."""
    return self.name.startswith("config.method.") and self.name.count(".") == 3


def fields(config: Any, prefix: str = "config") -> Iterator[Field]:
  """Every field below `config`; `prefix` is what their names begin with."""
  kinds = _kinds(type(config))  # type: ignore[arg-type]
  for field in dataclasses.fields(config):
    value, name = getattr(config, field.name), f"{prefix}.{field.name}"
    if dataclasses.is_dataclass(value):
      yield from fields(value, name)
    else:
      yield Field(name, config, field.name, kinds[field.name],
                  field.metadata.get("path", False), field.metadata["help"])


@functools.cache  # every look at a config asks for all of them
def _kinds(section):
  return typing.get_type_hints(section)


def field_names(
    *sections: str, without: Sequence[str] = ()) -> tuple[str, ...]:
  """Dotted names of the fields in some sections.

  Args:
    sections: Names of sections, as in "data", or of single fields.
    without: Names of fields in these to leave out.
  """
  return tuple(
      field.name for field in fields(ExperimentConfig())
      if any(f"{field.name}.".startswith(f"config.{one}.") for one in sections)
      and field.name.removeprefix("config.") not in without)


def method_parts(config: MethodConfig) -> dict[str, Any]:
  """The numbers of each method that has a field for its own, by its name."""
  return {field.name: part for field in dataclasses.fields(config)
          if dataclasses.is_dataclass(part := getattr(config, field.name))}


def number_names() -> tuple[str, ...]:
  """Names of all numbers that methods have, those of `NUMBERS` first."""
  own = [field.name for part in method_parts(MethodConfig()).values()
         for field in dataclasses.fields(part)]
  return tuple(dict.fromkeys((*NUMBERS, *own)))


def check(config: ExperimentConfig) -> None:
  """Reads names, paths and "none" as a flag or a file has them; checks all.

  Raises:
    ValueError: See `validate`; or a list of names that cannot be read.
  """
  for field in fields(config):
    setattr(field.part, field.key, _read(field))
  validate(config)


def _read(field):
  value = field.value
  if field.kind == tuple[str, ...] and isinstance(value, (str, tuple, list)):
    try:
      return tuple(name for name in names_of(value, are_paths=field.is_path)
                   if name not in NONE)
    except ValueError as error:
      raise ValueError(f"--{field.name}: {error}") from error
  if field.may_be_none and value in NONE:
    return None
  return with_home(value, field)


def with_home(value: Any, field: Field) -> Any:
  """A field's value with ~ expanded, where it is a path or several."""
  if not field.is_path:
    return value
  if isinstance(value, tuple):
    return tuple(map(os.path.expanduser, value))
  return os.path.expanduser(value) if isinstance(value, str) else value


def names_of(given: Sequence[str], *, are_paths: bool) -> list[str]:
  """Names one by one; a flag hands over several in one text.

  Args:
    given: Texts, each with a name or several separated by commas, see `split`;
      or a tuple as Python writes it, as in "('tpt', 'soc')".
    are_paths: Whether names may be paths: a text that exists as one is taken
      as a whole, and ~ is the home folder.

  Raises:
    ValueError: See `split`.
  """
  home = os.path.expanduser if are_paths else str
  names = []
  for text in [given] if isinstance(given, str) else given:
    if not isinstance(text, str):
      names.append(text)  # refused with other values of a wrong type
    elif are_paths and os.path.exists(home(text)):
      names.append(home(text))
    else:
      names += map(home, _written_in_python(text) or split(text))
  return names


def _written_in_python(text):
  """The names of a tuple or list of Python; None where it is none."""
  try:
    value = ast.literal_eval(text)
  except (SyntaxError, ValueError, MemoryError, RecursionError):
    return None  # the latter two where it is nested deeply
  if isinstance(value, (list, tuple)) and all(
      isinstance(one, str) for one in value):
    return list(value)
  return None


def validate(config: ExperimentConfig) -> None:
  """Refuses values of other types or out of range, before anything is loaded.

  Names of methods and image sets are checked where their tables are.

  Raises:
    ValueError: Names the field, the value and what was expected.
  """
  for field in fields(config):
    _check_type(field.name, field.value, field.kind)
  for section, part, rows in (
      ("model.", config.model, _model_rows(config.model)),
      ("data.", config.data, _data_rows(config.data)),
      ("views.", config.views, _views_rows(config.views)),
      ("method.", config.method, _method_rows(config.method, config.views)),
      *((f"method.{name}.", part, _numbers_rows(part, config.views))
        for name, part in method_parts(config.method).items()),
      ("stream.", config.stream, _stream_rows(
          config.stream, config.data.out_of_distribution)),
      *((f"{name}.", part, _seeds(part)) for name, part in (
          ("stream", config.stream), ("fpp", config.fpp),
          ("posterior", config.posterior), ("metrics", config.metrics))),
      ("fpp.", config.fpp, _fpp_rows(config.fpp)),
      ("posterior.", config.posterior, _posterior_rows(
          config.posterior, config.method)),
      ("temperature.", config.temperature,
       _at_least(0, config.temperature, "limit")),
      ("choice.", config.choice, (
          _one_of(config.choice, "by", "nll", "brier", "ece", "aurc",
                  "accuracy"),
          _one_of(config.choice, "scope", "each", "all"))),
      ("tune.", config.tune, _tune_rows(config.tune)),
      ("metrics.", config.metrics, _metrics_rows(config.metrics)),
      ("", config, _rows_of_no_section(config))):
    for name, holds, expected in rows:
      if not holds:
        raise _wrong(
            f"config.{section}{name}", getattr(part, name), expected)
  _check_own_methods(config.methods)


def _check_own_methods(methods):
  """Refuses what no flag, file or table could name, or nobody write down."""
  if not isinstance(methods, Mapping):
    raise ValueError("config.methods must be methods by name, as in "
                     f"{{'mine': MyMethod()}}, got {methods!r}")
  for name, method in methods.items():
    if not re.fullmatch(r"\w[\w.-]*", str(name)):
      raise ValueError(
          f"config.methods has the name {name!r}; expected letters, digits, "
          "'_', '-' and '.', for names of files and METHOD+temperature")
    if isinstance(method, type) or not dataclasses.is_dataclass(method):
      raise ValueError(
          f"config.methods[{name!r}] is {method!r}, expected an instance of a "
          "dataclass of numbers with a method(), such as jaxcal.Tda()")
    for field in dataclasses.fields(method):
      value = getattr(method, field.name)
      if isinstance(value, float) and math.isnan(value):
        raise ValueError(f"config.methods[{name!r}].{field.name} is nan, "
                         "expected a number")


def _wrong(name, value, expected):
  return ValueError(f"--{name} is {value!r}, expected {expected}")


def _check_type(name, value, annotation):
  """Refuses values of other types, NaN and infinity among them."""
  kind, or_none = _kind_of(annotation)
  if kind in _EXPECTED and not (value is None and or_none) and (
      not _is_a(value, kind)):
    raise _wrong(name, value, _expected(kind, or_none))


@functools.cache
def _kind_of(annotation):
  """The type itself, and whether None is allowed beside it."""
  if typing.get_origin(annotation) in (types.UnionType, typing.Union):
    kind, = (one for one in typing.get_args(annotation)
             if one is not types.NoneType)
    return kind, True
  return typing.get_origin(annotation) or annotation, False


def _is_a(value, kind):
  if kind is float:
    return type(value) is int or (
        isinstance(value, float) and math.isfinite(value))
  if kind is tuple:
    return isinstance(value, tuple) and all(isinstance(v, str) for v in value)
  # A truth value is a whole number to Python alone.
  return isinstance(value, kind) and (kind is bool or value is not True and
                                      value is not False)


def _expected(kind, or_none):
  return _EXPECTED[kind] + (" or none" if or_none else "")


# Of each section, rows of (field, whether its value holds, what is expected).


def _model_rows(model):
  return (
      _one_of(model, "image_precision", "auto", *_PRECISIONS),
      _one_of(model, "text_precision", *_PRECISIONS))


def _data_rows(data):
  return (
      ("name", bool(data.name), "a name"),
      *_at_least(0, data, "limit", "skip"),
      ("template", data.template.count("{}") == 1, "exactly one {}"),
      _one_of(data, "source", "files", "tfds"),
      _one_of(data, "on_bad_image", "fail", "skip"),
      _one_of(data, "classes", "all", "base", "new"),
      ("severity", data.severity is None or 1 <= data.severity <= 5,
       "from 1 to 5"),
      _one_of(data, "corruption_of", "crop", "image"),
      ("corruption_seed", 0 <= data.corruption_seed < 2**32,
       "from 0 to 2**32 - 1"),
      _one_of(data, "family", None, "fine_grained", "shift"),
      ("classes", data.classes == "all" or data.store is None,
       "'all' beside --config.data.store, which has features of whole sets"))


def _views_rows(views):
  return (
      *_at_least(1, views, "number"),
      # Of the images' ids it makes keys, whatever its sign.
      ("seed", abs(views.seed) < 2**32, "from 1 - 2**32 to 2**32 - 1"),
      ("min_area", 0 < views.min_area <= views.max_area,
       "in (0, --config.views.max_area]"),
      ("max_area", views.max_area <= 1, "<= 1"),
      ("flip_probability", 0 <= views.flip_probability <= 1, "in [0, 1]"))


def _method_rows(method, views):
  return (
      ("name", bool(method.name), "a name"),
      ("context", method.context in ("template", "fpp") or
       method.context.endswith(".safetensors"),
       "'template', 'fpp' or the path of a seed-N.safetensors"),
      ("adapter", method.adapter is None or
       method.adapter.endswith(".safetensors"),
       "the path of a seed-N.safetensors"),
      ("adapter", method.adapter is None or method.context == "template",
       "none beside --config.method.context: what was trained with the one "
       "was not trained with the other"),
      *_numbers_rows(method, views))


def _numbers_rows(part, views):
  """Of a method's numbers, or of those below config.method for all."""
  number = lambda name: getattr(part, name, None)
  fraction, delta, seed = map(number, ("selection_fraction", "delta", "seed"))
  return (
      *_at_least(0, part, *(name for name in (
          "effective_weight", "learning_rate", "weight_decay", "num_steps",
          "smoothing", "extra_capacity")
                            if hasattr(part, name))),
      *_at_least(1, part, *(name for name in (
          "capacity", "negative_capacity", "image_neighbours",
          "text_neighbours", "power", "num_rounds", "length", "num_neighbours",
          "num_prompts", "rank", "num_blocks")
                            if hasattr(part, name))),
      *_at_least(2, part, *(
          name for name in ("num_sampled",) if hasattr(part, name))),
      # As an argument of a program, where JAX has no wider integers.
      ("seed", seed is None or 0 <= seed < 2**31, "from 0 to 2**31 - 1"),
      ("selection_fraction", fraction is None or 0 < fraction <= 1,
       "in (0, 1]"),
      ("selection_fraction", fraction is None or
       int(views.count * fraction) >= 1,
       f"large enough to keep one of {views.count} views"),
      ("delta", delta is None or 0 < delta <= 1, "in (0, 1]"),
      *((name, value is None or 0 <= value <= 1, "in [0, 1]")
        for name in ("quantile", "delta_quantile")
        for value in [number(name)]))


def _stream_rows(stream, out_of_distribution):
  return (
      _one_of(stream, "order", "shuffled", "given", "sorted"),
      *_at_least(1, stream, "orders", "imbalance"),
      ("outlier_share", 0 <= stream.outlier_share < 1, "in [0, 1)"),
      ("outlier_share", stream.outlier_share == 0 or
       out_of_distribution is not None,
       "0 without --config.data.out_of_distribution, the image set whose "
       "images are mixed in"),
      ("corrupted_share", 0 < stream.corrupted_share <= 1, "in (0, 1]"),
      ("orders", stream.orders == 1 or stream.order != "given",
       "1 with --config.stream.order=given, which is one order"),
      ("orders", stream.orders == 1 or stream.seed + stream.orders <= 2**32,
       "few enough for seeds up to 2**32 - 1"))


def _fpp_rows(fpp):
  return (
      *_at_least(1, fpp, "num_steps"),
      _positive(fpp, "learning_rate"))


def _posterior_rows(posterior, method):
  return (
      ("folder", posterior.folder is None or method.adapter is None,
       "none beside --config.method.adapter, which comes after the layers "
       "that a posterior is of"),
      _positive(posterior, "pseudo_count"),
      *_at_least(2, posterior, "num_samples"))


def _tune_rows(tune):
  return (
      ("name", bool(tune.name), "a name"),
      _each_of(tune, "dor", "without", "with"),
      _each_of(tune, "logit_range", "free", "zs_norm", "penalty"),
      _one_of(tune, "preset", "upstream", "dor"),
      _one_of(tune, "classes", "base", "all"),
      _one_of(tune, "class_position", "end", "middle", "front"),
      ("template", tune.template is None or tune.template.count("{}") == 1,
       "exactly one {}"),
      _one_of(tune, "draw", "shuffled", "iid", "fixed"),
      *_at_least(1, tune, "num_shots", "num_seeds", "num_epochs", "batch_size",
                 "num_context", "num_outliers"),
      *_at_least(0, tune, "learning_rate", "num_views", "seeds_at_once",
                 "outlier_weight", "cache_weight", "cache_sharpness"))


def _metrics_rows(metrics):
  return (
      *_at_least(1, metrics, "num_bins"),
      _one_of(metrics, "edges", "left", "right"),
      ("level", 0 < metrics.level < 1, "in (0, 1)"),
      *_at_least(2, metrics, "num_resamples"))


def _rows_of_no_section(config):
  return (
      _one_of(config, "protocol", "defaults", "paper"),
      ("memory_gb", config.memory_gb is None or config.memory_gb > 0, "> 0"),
      ("memory_gb", (config.memory_gb or 0) <= _MOST_GB, f"<= {_MOST_GB}"),
      _one_of(config, "linearisation", "auto", "vjp", "jacobian"),
      *_at_least(1, config, "batch_size", "num_threads"))


def _seeds(part):
  """A row of a seed, which both NumPy and JAX take."""
  return [("seed", 0 <= part.seed < 2**32, "from 0 to 2**32 - 1")]


def _at_least(low, part, *names):
  """Rows of fields that are None or not below `low`."""
  values = {name: getattr(part, name) for name in names}
  return [(name, value is None or value >= low, f">= {low}")
          for name, value in values.items()]


def _positive(part, name):
  value = getattr(part, name)
  return name, value is None or value > 0, "> 0"


def _one_of(part, name, *choices):
  *others, last = map(repr, choices)
  return (name, getattr(part, name) in choices,
          f"{', '.join(others)} or {last}")


def _each_of(part, name, *choices):
  """A row of a field with one or more of the choices, none of them twice."""
  given = getattr(part, name)
  *others, last = map(repr, choices)
  return (name, bool(given) and len(set(given)) == len(given) and
          set(given) <= set(choices),
          f"one or more of {', '.join(others)} and {last}")


def describe(config: Any, prefix: str = "config") -> list[tuple[str, Any, str]]:
  """Every field below `config` as (dotted name, value, what it is)."""
  return [(field.name, field.value, field.about)
          for field in fields(config, prefix)]


def plain(value: Any) -> Any:
  """A field's value as the command line has it."""
  return ",".join(value) if isinstance(value, tuple) else value
