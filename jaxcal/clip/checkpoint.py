"""A checkpoint on disk or on the hub becomes a model: sizes, arrays, tokenizer.

Weights are read from safetensors and flax msgpack, never unpickled, and must be
exactly those that the configuration describes.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import dataclasses
import functools
import hashlib
import pathlib
from typing import Any, NamedTuple

from absl import logging
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from jaxcal import precision
from jaxcal.clip import hugging_face
from jaxcal.clip import layout
from jaxcal.clip import open_clip
from jaxcal.clip import preprocess as preprocess_lib
from jaxcal.clip import prompts
from jaxcal.clip import siglip
from jaxcal.clip import sizes
from jaxcal.clip import tokenizers
from jaxcal.clip import towers
from jaxcal.clip import weights as weights_lib
from jaxcal.compiled import compiled
from jaxcal.storage import damage
from jaxcal.typing import AnyArray
from jaxcal.typing import Array
from jaxcal.typing import at_least_float32
from jaxcal.typing import DTypeLike
from jaxcal.typing import Float
from jaxcal.typing import Pooled
from jaxcal.typing import PyTree
from jaxcal.typing import UInt8

_SAFETENSORS = "model.safetensors"
_SHARDS = "model.safetensors.index.json"
_MSGPACK = "flax_model.msgpack"
_OPEN_CLIP = "open_clip_model.safetensors"
_CONFIG = "config.json"
_OPEN_CLIP_CONFIG = "open_clip_config.json"

# In the order of preference, with the files that each one takes from the hub.
_WEIGHTS = {
    _SAFETENSORS: (_SAFETENSORS,),
    _SHARDS: (_SHARDS, "model-*-of-*.safetensors"),
    _MSGPACK: (_MSGPACK,),
    _OPEN_CLIP: (_OPEN_CLIP,),
}
_SMALL_FILES = ("*.json", "merges.txt", "spiece.model")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_TOKENIZER_HOME = "openai/clip-vit-base-patch32"
_HUGGING_FACE = ("clip", "siglip")  # what config.json calls a model
_INSTEAD = {
    "siglip2": " (a 'siglip2' takes images as any number of patches, NaFlex; "
               "take a SigLIP 2 for images of one size, of type 'siglip', such "
               "as google/siglip2-base-patch16-256)"}
# What becomes of parameters, by the precision of its tower.
_STORED = dict.fromkeys(
    precision.PRECISIONS, lambda tree: jax.tree.map(at_least_float32, tree)) | {
        "bfloat16": compiled(lambda tree: jax.tree.map(
            lambda x: x.astype(jnp.bfloat16), tree))}


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
  """What a checkpoint holds; thin methods over the functions of `towers`.

  Under an outer `jit`, call those functions with `config` static and `params`
  as an argument, so that the weights do not become constants of the program.

  Attributes:
    config: Sizes, and the precision of each tower; hashable.
    params: The tree of `towers.init`, in the dtype that was asked for.
    tokenizer: Tokenizer, see `tokenizers`; None where the checkpoint has none,
      and then prompts are made by `prompts.from_token_ids`.
    preprocess: Function from a decoded image to `pixels`.
    name: Name as given to `load`.
    fingerprint: Digest (sha256, hexadecimal) of the sizes and the weights as
      loaded, whatever the file format they came in.
  """

  config: towers.ClipConfig
  params: towers.Params
  tokenizer: Any
  preprocess: preprocess_lib.Preprocess
  name: str
  fingerprint: str

  def image_features(
      self, pixels: UInt8[AnyArray, "n s s 3"]) -> Float[Array, "n d"]:
    """Unit-norm features of resized and cropped images."""
    return _image_features(self.config, self.preprocess, self.params, pixels)

  def pooled(self, pixels: UInt8[AnyArray, "n s s 3"]) -> Pooled:
    """What the projection into the joint space sees of the images."""
    return _pooled(self.config, self.preprocess, self.params, pixels)

  def text_features(self, bank: prompts.PromptBank) -> Float[Array, "k d"]:
    """Unit-norm features of the prompts as they were tokenised."""
    return _text_features(self.config, self.params, bank)


def load(
    name_or_path: str | pathlib.Path,
    *,
    dtype: DTypeLike = jnp.float32,
    revision: str | None = None,
    cache_dir: str | pathlib.Path | None = None,
) -> Model:
  """Reads a CLIP or SigLIP from a folder, or from the Hugging Face hub.

  Understood are the layouts of Hugging Face (config.json with safetensors, in
  one file or in shards, or with flax_model.msgpack) and, of CLIP with a vision
  transformer or a residual network, of OpenCLIP (open_clip_config.json with
  open_clip_model.safetensors; a CLIP tokenizer is fetched from the hub where
  that folder has none). This is the only function of the package that
  downloads, and it does so only for a name on the hub.

  Args:
    name_or_path: An existing folder, or an id such as
      "openai/clip-vit-base-patch16".
    dtype: Type of the parameters, and so of the activations. Products are at
      "highest", but at "bfloat16" for that; see `in_precision`.
    revision: Branch, tag or commit on the hub.
    cache_dir: Where downloads are kept, instead of the usual place.

  Raises:
    FileNotFoundError: If there is no such folder or hub repository, or a file
      is missing from it.
    storage.damage.DamagedFile: A file is empty, cut off or not of its format;
      a ValueError.
    ValueError: If the checkpoint is of another kind of model, a setting is out
      of range (of which sizes: see `sizes`), or its weights are not exactly
      those of the model that its configuration describes, all finite.
    ImportError: The tokenizer needs packages that are not installed.
  """
  dtype = jnp.dtype(dtype)
  if jax.dtypes.canonicalize_dtype(dtype) != dtype:
    raise ValueError(f"{dtype} parameters need `with jax.enable_x64(True):`")
  folder = _folder(str(name_or_path), revision, cache_dir)
  weights = _weights_file(folder)
  family, settings_path = _described_by(folder, weights)
  settings = damage.read_object(settings_path)
  with _named(settings_path):
    config = family.config(settings)
    expected = weights_lib.expected(config)
  preprocess = _preprocess(folder, family, settings, config.image_size)
  tokenizer = _tokenizer(folder, family, config)
  if tokenizer is None and weights.name == _OPEN_CLIP:
    home = _snapshot(_TOKENIZER_HOME, _SMALL_FILES, None, cache_dir)
    tokenizer = _tokenizer(home, family, config)
  flat = weights_lib.checked(
      weights_lib.read(weights, family.tree), expected, dtype, weights)
  computed = "bfloat16" if dtype == jnp.bfloat16 else "highest"
  return Model(
      config=_computing(config, image=computed, text=computed),
      params=jax.device_put(traverse_util.unflatten_dict(flat, sep="/")),
      tokenizer=tokenizer,
      preprocess=preprocess,
      name=str(name_or_path),
      fingerprint=_digest(config, flat),
  )


def fingerprint(config: towers.ClipConfig, params: towers.Params) -> str:
  """Digest of sizes and weights, for a model that is made of another one."""
  return _digest(config, {
      name: np.asarray(leaf) for name, leaf in traverse_util.flatten_dict(
          params, sep="/").items()})


def in_precision(model: Model, *, image: str, text: str) -> Model:
  """The same model, each tower computing in a precision of its own.

  At "bfloat16" the parameters and activations of a tower are of that type, and
  of float32 at least at any other; layer norms and softmax, and the unit-norm
  features, never go below float32. The fingerprint stays that of the weights as
  they were loaded.

  Args:
    model: Model from `load`.
    image: Precision of the image tower and its projection, one of
      `jaxcal.precision.PRECISIONS`.
    text: Precision of the text tower, likewise.

  Raises:
    ValueError: An unknown precision.
  """
  config = _computing(model.config, image=image, text=text)
  sides = (dict.fromkeys(towers.IMAGE_PARAMS, image) |
           dict.fromkeys(towers.TEXT_PARAMS, text))
  params = {
      name: _STORED[sides[name]](value)
      if name in sides else value for name, value in model.params.items()}
  return dataclasses.replace(model, config=config, params=params)


def _computing(config, *, image, text):
  return dataclasses.replace(
      config, vision=dataclasses.replace(config.vision, precision=image),
      text=dataclasses.replace(config.text, precision=text))


def at_image_size(model: Model, side: int) -> Model:
  """The same SigLIP for images of another side that hold as many patches.

  What is left to the right of and below the last whole patch is not seen, so
  this only changes how images are resized. The checkpoint's own size is right;
  the released code of BayesVLM resized to 265 pixels for the models of 256.
  The fingerprint stays that of the weights.

  Args:
    model: Model from `load`.
    side: Side of the squares that images become, in pixels.

  Raises:
    ValueError: A side that holds another number of patches, or a model whose
      images keep their aspect.
  """
  if isinstance(model.preprocess.resize, int):
    raise ValueError(f"{model.name} takes the centre of images that keep their "
                     "aspect; only squares can be of another size")
  config = dataclasses.replace(model.config, image_size=side)
  ours, theirs = (c.image_size // c.patch_size for c in (model.config, config))
  if ours != theirs:
    raise ValueError(f"images of {side} pixels hold {theirs} x {theirs} patches"
                     f" of {config.patch_size}, but the model takes {ours} x "
                     f"{ours}")
  return dataclasses.replace(
      model, config=config, preprocess=dataclasses.replace(
          model.preprocess, resize=(side, side), crop=side))


def _normalised(config, preprocess, params, pixels):
  dtype = towers.image_projection(config, params).kernel.dtype
  pixels = preprocess_lib.normalise_pixels(
      pixels, preprocess.mean, preprocess.std,
      jnp.promote_types(dtype, jnp.float32))
  return pixels.astype(dtype)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _image_features(config, preprocess, params, pixels):
  return towers.image_features(
      config, params, _normalised(config, preprocess, params, pixels))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _pooled(config, preprocess, params, pixels):
  return towers.pooled_image(
      config, params, _normalised(config, preprocess, params, pixels))


@functools.partial(jax.jit, static_argnums=0)
def _text_features(config, params, bank):
  embeddings = towers.token_embeddings(params, bank.token_ids)
  return towers.text_features(config, params, embeddings, bank.end_positions)


def _folder(name, revision, cache_dir):
  """The local folder, or the hub's files copied into one."""
  folder = pathlib.Path(name)
  if folder.is_dir():
    return folder
  if folder.exists():
    raise ValueError(f"{name} is a file; name the folder that holds the whole "
                     "checkpoint (weights and configuration)")
  folder = _snapshot(name, _SMALL_FILES, revision, cache_dir)
  for file in _in_order(folder):
    _snapshot(name, _WEIGHTS[file], revision, cache_dir)
    if (folder / file).exists():
      break
  return folder


def _in_order(folder):
  """The files of weights that there may be, those that are described first.

  The hub's OpenCLIP models have the image tower beside them as timm has it,
  under the names that a whole model has elsewhere.
  """
  described = (folder / _OPEN_CLIP_CONFIG).exists() and not (
      (folder / _CONFIG).exists() and damage.read_object(
          folder / _CONFIG).get("model_type") in _HUGGING_FACE)
  return sorted(_WEIGHTS, key=lambda file: described and file != _OPEN_CLIP)


def _snapshot(name, patterns, revision, cache_dir):
  import huggingface_hub
  from huggingface_hub import errors
  try:
    return pathlib.Path(huggingface_hub.snapshot_download(
        name, revision=revision, cache_dir=cache_dir,
        allow_patterns=list(patterns)))
  except errors.HFValidationError as error:
    raise FileNotFoundError(
        f"no checkpoint {name!r}: there is no such folder, and it is not an id "
        "of the Hugging Face hub (owner/name)") from error
  except (errors.HfHubHTTPError, OSError) as error:
    at = f" at revision {revision}" if revision else ""
    raise FileNotFoundError(
        f"no checkpoint {name!r}{at}: there is no such folder, and the Hugging "
        f"Face hub gave no files {', '.join(patterns)} ({error}). Without "
        "network, download it elsewhere (`hf download "
        f"{name}`) and give the folder.") from error


def _weights_file(folder):
  for file in _in_order(folder):
    if (folder / file).exists():
      return folder / file
  pickles = sorted(p.name for pattern in _PICKLES for p in folder.glob(pattern))
  found = f" Found only {', '.join(pickles)}." if pickles else ""
  raise FileNotFoundError(
      f"no weights in {folder}; looked for {', '.join(_WEIGHTS)}.{found} "
      "Pickled weights are never read, because they can run code. Convert them "
      "once: `transformers.CLIPModel.from_pretrained(source).save_pretrained("
      f"folder)` writes {_SAFETENSORS}.")


@contextlib.contextmanager
def _named(path) -> Iterator[None]:
  """Errors on settings say in which file these stand."""
  try:
    yield
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error


def _described_by(folder, weights):
  """The family of a file of weights, and the file with its settings."""
  path = folder / (
      _OPEN_CLIP_CONFIG if weights.name == _OPEN_CLIP else _CONFIG)
  if not path.exists():
    raise FileNotFoundError(
        f"no {path}, which must describe the weights beside it; copy it from "
        "where they came from")
  if weights.name == _OPEN_CLIP:
    return _FAMILIES["open_clip"], path
  kind = damage.read_object(path).get("model_type")
  if kind not in _HUGGING_FACE:
    raise ValueError(
        f"{path}: a model of type {kind!r}; supported are 'clip', 'siglip' and "
        "OpenCLIP's plain transformers and residual networks"
        f"{_INSTEAD.get(str(kind), '')}")
  return _FAMILIES[kind], path


def _preprocess(folder, family, settings, image_size):
  """How images become what the model takes, as one of the folder's files says.
  """
  if family is _FAMILIES["open_clip"]:
    path = folder / _OPEN_CLIP_CONFIG
  else:
    path, settings = _image_processor_settings(folder)
  with _named(path):
    return family.preprocess(settings, image_size)


def _image_processor_settings(folder):
  path = folder / "preprocessor_config.json"
  if path.exists():
    return path, damage.read_object(path)
  path = folder / "processor_config.json"
  if path.exists():
    found = damage.read_object(path).get("image_processor", {})
    with _named(path):
      return path, sizes.section({"image_processor": found}, "image_processor")
  logging.warning(
      "no preprocessor_config.json in %s: images are resized, cropped and "
      "normalised as is usual for this kind of model", folder)
  return folder, {}


def _tokenizer(folder, family, config):
  """The folder's tokenizer, None where it has no files of one."""
  tokenizer = family.tokenizer(folder)
  if tokenizer is not None:
    tokenizers.check_fits(tokenizer, config.vocab_size, folder)
  return tokenizer


def _digest(config, flat):
  digest = hashlib.sha256(repr(config).encode())
  for name in sorted(flat):
    digest.update(f"{name} {flat[name].dtype} {flat[name].shape}".encode())
    digest.update(flat[name].tobytes())
  return digest.hexdigest()


class _Family(NamedTuple):
  """What differs between the kinds of checkpoints.

  Attributes:
    config: Function from the settings of a model to its configuration.
    preprocess: Function from the settings of a model's images and the image
      size.
    tree: Function from tensors by the names of the file to our tree.
    tokenizer: Function from a folder to its tokenizer; None where it has no
      files of one.
  """

  config: Callable[[Mapping[str, Any]], towers.ClipConfig]
  preprocess: Callable[[Mapping[str, Any], int], preprocess_lib.Preprocess]
  tree: Callable[[Mapping[str, np.ndarray]], PyTree]
  tokenizer: Callable[[pathlib.Path], Any]


_FAMILIES = {
    "clip": _Family(
        hugging_face.clip_config, preprocess_lib.from_image_processor,
        layout.from_torch_names, tokenizers.of_clip),
    "siglip": _Family(
        hugging_face.siglip_config, siglip.preprocessing,
        siglip.from_torch_names, tokenizers.of_siglip),
    "open_clip": _Family(
        open_clip.config, open_clip.preprocessing,
        open_clip.from_open_clip_names, tokenizers.of_clip),
}
