"""Files of tuned parameters: what a seed of a method has learned."""

from collections.abc import Mapping, Sequence
import itertools
import json
import os
import pathlib
from typing import Any, NamedTuple

from flax import traverse_util
import jax
import numpy as np

from jaxcal.clip import checkpoint
from jaxcal.storage import atomic
from jaxcal.storage import identity
from jaxcal.storage import pair
from jaxcal.tuning import method as method_lib
from jaxcal.tuning import methods
from jaxcal.typing import Int

ENDING = "safetensors"
# Methods after which there still are features of images and of classes.
ADAPTERS = ("clip_adapter", "taskres")


class Tuned(NamedTuple):
  """One seed of a method.

  Attributes:
    spec: The method.
    params: Parameters after training.
    class_names: Names of the classes of the training.
    labels: Labels of the few shots, where the method looks them up; else empty.
    about: All that made them, as JSON has it.
  """

  spec: methods.Spec
  params: method_lib.Params
  class_names: tuple[str, ...]
  labels: Int[np.ndarray, "n"]
  about: Mapping[str, Any]


def save(path: pathlib.Path, tuned: Tuned) -> None:
  """Writes PATH.safetensors and PATH.json, seen together or not at all."""
  from safetensors import numpy as safetensors
  atomic.make_folder(path.parent)
  pair.write(path, ENDING, safetensors.save(_flat(tuned.params)), {
      **tuned.about, "spec": tuned.spec._asdict(),
      "class_names": tuned.class_names,
      "labels": np.asarray(tuned.labels).tolist()})


def exists(path: pathlib.Path) -> bool:
  """Whether `save` has come to its end, once at least."""
  return pair.exists(path, ENDING)


def about(path: pathlib.Path) -> dict[str, Any]:
  """What PATH.json says of tuned parameters."""
  return pair.about(path, ENDING)


def load(path: pathlib.Path, model: checkpoint.Model) -> Tuned:
  """`read` for a model.

  Raises:
    FileNotFoundError: One of the two files is missing.
    ValueError: See `read`; or they are of another model.
  """
  found = read(path)
  trained = found.about.get("model.fingerprint")
  if trained != model.fingerprint:
    raise ValueError(
        f"{path} was tuned for the model with the fingerprint {trained}, but "
        f"{model.name} has {model.fingerprint}; give that model with "
        "--config.model.name")
  return found


def read(path: pathlib.Path) -> Tuned:
  """What `save` wrote; PATH may have one of the endings.

  Raises:
    FileNotFoundError: One of the two files is missing.
    ValueError: It is damaged, or not such a file.
  """
  from safetensors import numpy as safetensors
  from safetensors import SafetensorError
  path = pathlib.Path(path)
  if path.suffix in (f".{ENDING}", ".json"):
    path = path.with_suffix("")
  arrays, text = (atomic.with_ending(path, ending)
                  for ending in (ENDING, "json"))
  for file in (arrays, text):
    if not file.exists():
      raise FileNotFoundError(
          f"no {file}; `jaxcal tune` writes tuned/SET/METHOD/seed-N.{ENDING} "
          "with a .json beside it")
  content, made = pair.read(path, ENDING)
  try:
    params = traverse_util.unflatten_dict(safetensors.load(content), sep=".")
    spec = _spec(made["spec"])
    names = tuple(made["class_names"])
    labels = np.asarray(made["labels"] or np.zeros(0, int))
    _check_types(spec, names, labels)
    methods.check(spec.base_method, spec.additions)
  except (SafetensorError, ArithmeticError, AttributeError, KeyError, TypeError,
          ValueError) as error:
    raise ValueError(f"{path}.* is not what `jaxcal tune` writes: {error!r}; "
                     "run it again") from error
  return Tuned(spec, params, names, labels.astype(np.int64), made)


def find(paths: Sequence[str | os.PathLike]) -> list[pathlib.Path]:
  """Files of tuned parameters, in the order of their seeds.

  Args:
    paths: Folders tuned/SET/METHOD, or single files in them.

  Raises:
    FileNotFoundError: A folder has none, or a path is neither folder nor file.
  """
  found = []
  for path in map(pathlib.Path, paths):
    files = sorted(path.glob(f"seed-*.{ENDING}"),
                   key=lambda file: (len(file.name), file.name))
    if not files and not (path.suffix == f".{ENDING}" and path.exists()):
      raise FileNotFoundError(
          f"no tuned parameters in {path}; expected a folder tuned/SET/METHOD "
          f"of `jaxcal tune`, or a seed-N.{ENDING} in it")
    found += files or [path]
  return found


def content_of(path: pathlib.Path) -> str:
  """Name of tuned parameters, and a digest of what they predict with."""
  return f"{path.absolute().parent.name}/{path.stem} {digest(read(path))}"


def context(path: pathlib.Path, model: checkpoint.Model) -> Tuned:
  """Tuned parameters that are one context, for all classes and images.

  Raises:
    FileNotFoundError: Nothing lies there.
    ValueError: It is damaged, of another model, or has no such context.
  """
  one = load(path, model)
  if one.params.keys() != {"context"} or one.params["context"].ndim != 2:
    raise ValueError(
        f"{path} is of {one.spec.name}: {_other_than(one.spec)}; images can "
        "start from contexts of coop, kgcoop and prograd. To predict with it "
        f"as it is: --config.method.tuned={path}")
  return one


def adapter(path: pathlib.Path, model: checkpoint.Model) -> Tuned:
  """Tuned parameters that move features of images or of classes, as they are.

  Raises:
    FileNotFoundError: Nothing lies there.
    ValueError: It is damaged, of another model, or is no such adapter.
  """
  one = load(path, model)
  if one.spec.base_method not in ADAPTERS:
    raise ValueError(
        f"{path} is of {one.spec.name}, which does not map features to "
        f"features; methods can stand on {' and '.join(ADAPTERS)}, and on "
        "contexts of coop, kgcoop and prograd (--config.method.context). To "
        f"predict with it as it is: --config.method.tuned={path}")
  return one


def _other_than(spec):
  """Why a method's parameters are not one context."""
  if spec.kind.per_class:
    return "its contexts belong to a class of the training each"
  if spec.kind.from_pixels:
    return "it has prompts in deeper layers and in the image tower, too"
  if spec.base_method == "cocoop":
    return "its context is another one for every image"
  return "it has no context"


def _spec(made):
  """The method that a file tells; earlier versions joined it into a name."""
  if "name" not in made:
    return methods.Spec(**made | {"additions": tuple(made["additions"])})
  count = range(len(methods.ADDITIONS) + 1)
  plain, = (one for name in methods.METHODS for number in count
            for added in itertools.combinations(methods.ADDITIONS, number)
            if (one := methods.Spec(name, added)).name == made["name"])
  return plain._replace(
      **{name: value for name, value in made.items() if name != "name"})


def _check_types(spec, names, labels):
  """Refuses what JSON may hold in the place of what `save` wrote."""
  for name, default in methods.Spec("")._asdict().items():
    value = getattr(spec, name)
    if type(value) is not type(default) and not (
        isinstance(default, float) and type(value) is int):
      raise TypeError(f"{name} is {value!r}")
  if not all(isinstance(name, str) for name in (*spec.additions, *names)):
    raise TypeError("a name is no text")
  if labels.ndim != 1 or labels.dtype.kind != "i":
    raise TypeError("labels are no whole numbers")


def digest(tuned: Tuned) -> str:
  """A short digest of all that enters predictions: not of how it was made."""
  arrays = _flat(tuned.params)
  return identity.of_lines([
      json.dumps([tuned.spec._asdict(), tuned.class_names,
                  np.asarray(tuned.labels).tolist()], sort_keys=True),
      *(f"{name} {identity.of_array(arrays[name])}" for name in sorted(arrays)),
  ])


def _flat(params):
  flat = traverse_util.flatten_dict(
      jax.tree.map(np.asarray, dict(params)), sep=".")
  return {name: np.ascontiguousarray(value) for name, value in flat.items()}
