"""The feature store: the image tower's output, computed once, read many times.

A store is a folder:

  manifest.json           what the features are of; written first
  index.json              class names, ids and labels, in the order of the set
  left_out.json           where images of the set cannot be used: reasons by id
  view_features/          zarr array [n v d], unit-norm features of every view
  pooled/                 zarr array [n w], what the projection sees of view 0
                          (activations, then the residual if there is one)
  finished/00000000.json  one per finished chunk of images: sha256 of its values

Any number of processes may write chunks. Every file appears whole or not at
all, and that of a finished chunk last, so an interrupted store goes on where it
stopped and can be read while it grows. No file depends on when or by how many
processes it was written.
"""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import types
import typing
from typing import Any, NamedTuple

import numpy as np

from jaxcal import precision
from jaxcal import provenance
from jaxcal.clip import checkpoint
from jaxcal.data import image_set as image_sets
from jaxcal.data import views
from jaxcal.storage import atomic
from jaxcal.storage import damage
from jaxcal.storage import identity
from jaxcal.storage import paths
from jaxcal.typing import Bool
from jaxcal.typing import Float
from jaxcal.typing import Int
from jaxcal.typing import Positions

FORMAT_VERSION = 2
DTYPES = ("float16", "float32")

_MANIFEST = "manifest.json"
_INDEX = "index.json"
_LEFT_OUT = "left_out.json"
_ARRAYS = ("view_features", "pooled")
_WAY_OUT = ("Choose another folder, or remove this one to compute the features "
            "again.")


class Manifest(NamedTuple):
  """What the features of a store are of; all of it is JSON.

  Attributes:
    model: Name of the model.
    model_fingerprint: Fingerprint of its weights.
    data: Name of the image set.
    data_fingerprint: See `data_fingerprint`.
    contents_fingerprint: Digest of what the images' files held; None where they
      are no files.
    views: How the views were made.
    seed: Seed of the views.
    image_dtype: Precision in which the image tower computed, one of
      `jaxcal.precision.PRECISIONS`.
    num_images: Number of images, n.
    num_views: Number of views of each, v.
    feature_size: Width d of the joint space.
    pooled_size: Width w of the image tower's activations and residual together.
    dtype: Type of the stored values, one of `DTYPES`. Unit-norm features in
      float16 are within 2.5e-4 of their values in float32.
    chunk_size: Images per chunk. No influence on the values.
    corruption: What identifies the corruption of the images, see
      `ImageSet.corruption`; None without.
    computation: Version of the computation, `storage.identity.COMPUTATION`.
    versions: Versions of the programs; for the record.
    format_version: Format version of the files.
  """

  model: str
  model_fingerprint: str
  data: str
  data_fingerprint: str
  views: Mapping[str, Any]
  seed: int
  image_dtype: str
  num_images: int
  num_views: int
  feature_size: int
  pooled_size: int
  dtype: str = "float16"
  chunk_size: int = 256
  contents_fingerprint: str | None = None
  corruption: Mapping[str, Any] | None = None
  computation: int = identity.COMPUTATION
  versions: Mapping[str, str] = {}
  format_version: int = FORMAT_VERSION


class Store(NamedTuple):
  """An open store, from `create` or `open_store`.

  Attributes:
    folder: Where it lies.
    manifest: Manifest as it was made.
    image_ids: Ids, one per image, in the order of the set.
    labels: int32 [n], positions in `class_names`.
    class_names: Class names in label order.
    arrays: The open zarr arrays by name; use `read` and `batches`.
    left_out: Images of the set that cannot be used: reasons by id.
  """

  folder: pathlib.Path
  manifest: Manifest
  image_ids: tuple[str, ...]
  labels: Int[np.ndarray, "n"]
  class_names: tuple[str, ...]
  arrays: Mapping[str, Any]
  left_out: Mapping[str, str] = {}


class Batch(NamedTuple):
  """Features of `b` images; those with a false mask only fill the batch up.

  Attributes:
    view_features: Features [b v d], in the stored dtype; unit norm up to its
      rounding.
    pooled: Arrays [b w] before the projection.
    positions: Positions, int64 [b], in the order of the set; the filling
      repeats the last.
    mask: bool [b]; whether the entry is not filling.
  """

  view_features: Float[np.ndarray, "b v d"]
  pooled: Float[np.ndarray, "b w"]
  positions: Int[np.ndarray, "b"]
  mask: Bool[np.ndarray, "b"]


def manifest_of(
    model: checkpoint.Model,
    image_set: image_sets.ImageSet,
    *,
    recipe: views.Recipe,
    seed: int,
    dtype: str = "float16",
    chunk_size: int = 256,
    contents: str | None = None,
) -> Manifest:
  """What a store of the features of these images must be of.

  Args:
    model: Model from `tasks.load`.
    image_set: The images; none is read.
    recipe: Recipe of the views.
    seed: Seed of the views.
    dtype: Type of the stored values, one of `DTYPES`.
    chunk_size: Images per chunk.
    contents: Digest of the images' files, see `data.contents`.
  """
  return Manifest(
      model=model.name, model_fingerprint=model.fingerprint,
      data=image_set.name, data_fingerprint=data_fingerprint(image_set),
      contents_fingerprint=contents, corruption=image_set.corruption,
      views=json.loads(json.dumps(dataclasses.asdict(recipe))), seed=seed,
      image_dtype=model.config.vision.precision,
      num_images=len(image_set.ids), num_views=recipe.num_views,
      feature_size=model.config.projection,
      pooled_size=sum(model.config.pooled_sizes),
      dtype=dtype, chunk_size=chunk_size,
      versions={name: str(value)
                for name, value in provenance.describe().items()})


def check_holds(
    store: Store,
    model: checkpoint.Model,
    *,
    recipe: views.Recipe,
    seed: int = 0,
) -> None:
  """Refuses a store of features of other views or of another model.

  Args:
    store: Store from `open_store`.
    model: Model from `tasks.load`.
    recipe: Recipe of the views.
    seed: Seed of the views.

  Raises:
    ValueError: See `check`.
  """
  stored = store.manifest
  check(stored, manifest_of(
      model, image_set(store), recipe=recipe, seed=seed, dtype=stored.dtype,
      chunk_size=stored.chunk_size, contents=stored.contents_fingerprint),
        name=str(store.folder))


def data_fingerprint(image_set: image_sets.ImageSet) -> str:
  """sha256, hexadecimal, of class names, ids and labels in their order.

  The name of the set and the place of its files do not enter.
  """
  return hashlib.sha256(_index(image_set)).hexdigest()


def create(
    folder: str | os.PathLike,
    manifest: Manifest,
    image_set: image_sets.ImageSet,
) -> Store:
  """Makes a store, or opens the one that is there if it is of the same.

  Several processes may call this at the same time.

  Args:
    folder: Folder, new, empty, or a store.
    manifest: What is to be stored.
    image_set: The images; none is read.

  Returns:
    The store, with its own chunk size and versions where it was there before.

  Raises:
    ValueError: The manifest has a value out of range or does not fit the image
      set, the folder holds something else, or a store of something else (see
      `check`).
  """
  image_sets.check(image_set)
  _check_values(manifest)
  _check_data(manifest, image_set)
  folder = pathlib.Path(folder).absolute()
  _refuse_foreign(folder)
  atomic.make_folder(folder)
  atomic.remove_leftovers(folder)
  # Of several processes one writes; all go by what it has written.
  atomic.write_new(folder / _MANIFEST, _as_json(manifest._asdict()))
  stored = _read_manifest(folder)
  check(stored, manifest, name=str(folder))
  atomic.write_new(folder / _INDEX, _index(image_set))
  if image_set.left_out:
    atomic.write_new(folder / _LEFT_OUT, _as_json(image_set.left_out))
  for array in _ARRAYS:
    _open_array(folder, stored, array, create=True)
  return open_store(folder)


def open_store(folder: str | os.PathLike) -> Store:
  """Opens a store for reading and writing, complete or not.

  Raises:
    FileNotFoundError: There is no store, or making it was interrupted.
    ValueError: The manifest or the index is damaged or of another format.
  """
  folder = pathlib.Path(folder).absolute()
  manifest = _read_manifest(folder)
  for name in (_INDEX, *(f"{array}/zarr.json" for array in _ARRAYS)):
    if not (folder / name).exists():
      raise FileNotFoundError(
          f"no {folder / name}: making the store was interrupted; run `jaxcal "
          "features` again")
  ids, labels, class_names = _read_index(folder, manifest)
  arrays = {}
  for array in _ARRAYS:
    # First by our own reader: deep nesting would be the end of TensorStore's.
    damage.read_object(folder / array / "zarr.json", _WAY_OUT)
    with damage.told(folder / array / "zarr.json", _WAY_OUT):
      arrays[array] = _open_array(folder, manifest, array)
  store = Store(folder, manifest, ids, labels, class_names, arrays,
                _read_left_out(folder / _LEFT_OUT))
  with damage.told(folder / _INDEX, _WAY_OUT):
    image_sets.check(image_set(store))
  return store


def image_set(store: Store) -> image_sets.ImageSet:
  """The stored images by name, id and label; their pixels are not here."""

  def read(position):
    raise ValueError(f"{store.folder} holds features, not the pixels of "
                     f"{store.image_ids[position]!r}")

  return image_sets.ImageSet(store.manifest.data, store.class_names,
                             store.image_ids, store.labels, read,
                             left_out=store.left_out,
                             corruption=store.manifest.corruption)


def check(stored: Manifest, asked: Manifest, *,
          name: str = "the store") -> None:
  """Refuses a store that holds other features than those asked for.

  `chunk_size` and `versions` may differ.

  Args:
    stored: Manifest of the store.
    asked: What is wanted.
    name: What to call the store in the message.

  Raises:
    ValueError: They differ; names every field with both values.
  """
  ours, theirs = _fields(stored), _fields(asked)
  differing = [
      f"  {key}: stored {ours.get(key, 'nothing')!r}, "
      f"asked {theirs.get(key, 'nothing')!r}"
      for key in sorted(ours | theirs)
      if (key in ours, ours.get(key)) != (key in theirs, theirs.get(key))]
  if differing:
    raise ValueError("\n".join(
        [f"{name} holds other features than those asked for:", *differing,
         _WAY_OUT]))


def num_chunks(store: Store) -> int:
  """Chunks of the whole store, finished or not."""
  return -(-store.manifest.num_images // store.manifest.chunk_size)


def chunk_positions(store: Store, chunk: int) -> range:
  """Positions of the images of a chunk; the last chunk may have fewer.

  Raises:
    ValueError: There is no such chunk.
  """
  if not 0 <= chunk < num_chunks(store):
    raise ValueError(f"expected a chunk in [0, {num_chunks(store)}), those of "
                     f"{store.folder}, got {chunk}")
  size = store.manifest.chunk_size
  return range(chunk * size,
               min((chunk + 1) * size, store.manifest.num_images))


def missing(store: Store, process: int = 0,
            num_processes: int = 1) -> list[int]:
  """Unfinished chunks whose number is `process` modulo `num_processes`.

  Raises:
    ValueError: `process` is not in [0, num_processes).
  """
  if not 0 <= process < num_processes:
    raise ValueError(f"expected process in [0, {num_processes}), got {process}")
  return [chunk for chunk in range(process, num_chunks(store), num_processes)
          if not _finished_path(store, chunk).exists()]


def num_finished(store: Store) -> int:
  """Chunks that can be read."""
  return num_chunks(store) - len(missing(store))


def num_missing_images(
    folder: str | os.PathLike, num_images: int) -> int:
  """Images whose features a store lacks; all of them where there is no store.

  Nothing is written.

  Args:
    folder: Folder of the store.
    num_images: Number of images that it is to have.

  Raises:
    ValueError: See `open_store`.
  """
  try:
    store = open_store(folder)
  except FileNotFoundError:
    return num_images
  return sum(len(chunk_positions(store, chunk)) for chunk in missing(store))


def is_complete(store: Store) -> bool:
  """Whether all chunks can be read."""
  return not missing(store)


def write_chunk(
    store: Store,
    chunk: int,
    view_features: Float[np.ndarray, "c v d"],
    pooled: Float[np.ndarray, "c w"],
) -> None:
  """Writes the features of the images `chunk_positions(store, chunk)`.

  A chunk that is finished stays as it is, so several processes may write the
  same one. Returns when the chunk is safe on the disk.

  Args:
    store: The store.
    chunk: Number of the chunk.
    view_features: Features of any floating dtype; rounded to nearest where the
      stored one is narrower.
    pooled: Arrays before the projection, as `view_features`.

  Raises:
    ValueError: There is no such chunk, a shape is wrong, or a value is not
      finite, or not in the stored dtype; names the first such image. Nothing
      is written then.
  """
  positions = chunk_positions(store, chunk)
  values = {name: _stored_values(store, name, positions, given)
            for name, given in zip(_ARRAYS, (view_features, pooled))}
  if _finished_path(store, chunk).exists():
    return
  rows = slice(positions.start, positions.stop)
  writes = [store.arrays[name][rows].write(values[name]) for name in _ARRAYS]
  for write in writes:
    write.result()
  path = _finished_path(store, chunk)
  atomic.make_folder(path.parent)
  atomic.write_whole(path, _as_json(
      {name: hashlib.sha256(values[name]).hexdigest() for name in _ARRAYS}))


def read(
    store: Store, positions: Positions
) -> tuple[Float[np.ndarray, "b v d"], Float[np.ndarray, "b w"]]:
  """View features and pooled features, in the stored dtype.

  Whole chunks are read and compared with their checksums; for a pass over the
  store in small steps see `batches`.

  Args:
    store: The store, complete or not.
    positions: Positions of the images, in any order; `range` for a stretch.

  Raises:
    FileNotFoundError: A chunk is not written yet.
    ValueError: A position is outside the store, or a chunk is damaged; names
      the file to remove so that it is computed again.
  """
  return _gather(store, functools.partial(_read_chunk, store, _ARRAYS),
                 _check_positions(store, positions), _ARRAYS)


def read_pooled(
    store: Store, positions: Positions) -> Float[np.ndarray, "b w"]:
  """The pooled features of `read`, without reading those of the views."""
  names = ("pooled",)
  pooled, = _gather(store, functools.partial(_read_chunk, store, names),
                    _check_positions(store, positions), names)
  return pooled


def batches(store: Store, *, batch_size: int,
            start: int = 0) -> Iterator[Batch]:
  """The images of a store in batches of one shape; each chunk is read once.

  Args:
    store: The store.
    batch_size: Images per batch.
    start: Position of the first image.

  Returns:
    A generator of ceil((n - start) / batch_size) batches.

  Raises:
    FileNotFoundError: At once, if a chunk from `start` on is not written yet.
    ValueError: At once if a number is out of range; with its batch if a chunk
      is damaged.
  """
  num_images = store.manifest.num_images
  if batch_size < 1 or not 0 <= start <= num_images:
    raise ValueError(
        f"expected batch_size of at least 1 and start in [0, {num_images}], "
        f"got {batch_size=} and {start=}")
  _check_positions(store, range(start, num_images))
  read_chunk = functools.lru_cache(maxsize=1)(
      functools.partial(_read_chunk, store, _ARRAYS))

  def generate():
    for first in range(start, num_images, batch_size):
      positions = np.arange(first, first + batch_size)
      mask = positions < num_images
      positions = np.minimum(positions, num_images - 1)
      view_features, pooled = _gather(store, read_chunk, positions, _ARRAYS)
      yield Batch(view_features, pooled, positions, mask)

  return generate()


def _gather(store, read_chunk: Callable[[int], Mapping[str, np.ndarray]],
            positions, names):
  """The rows at the positions, chunk by chunk, for each of the names."""
  size = store.manifest.chunk_size
  gathered = tuple(
      np.empty((len(positions), *store.arrays[name].shape[1:]),
               store.manifest.dtype) for name in names)
  chunks = positions // size
  order = np.argsort(chunks, kind="stable")
  for rows in np.split(order, np.flatnonzero(np.diff(chunks[order])) + 1):
    if rows.size:
      chunk = int(chunks[rows[0]])
      values = read_chunk(chunk)
      for name, target in zip(names, gathered):
        target[rows] = values[name][positions[rows] - chunk * size]
  return gathered


def _read_chunk(store, names, chunk):
  """The values of a finished chunk, once they agree with their checksums."""
  path = _finished_path(store, chunk)
  positions = chunk_positions(store, chunk)
  rows = slice(positions.start, positions.stop)
  reads = {name: store.arrays[name][rows].read() for name in names}
  values = {}
  for name in names:
    try:
      values[name] = reads[name].result()
      expected = json.loads(path.read_bytes())[name]
      sound = hashlib.sha256(values[name]).hexdigest() == expected
    except (ValueError, KeyError, TypeError, RecursionError):  # mangled files
      sound = False
    if not sound:
      raise ValueError(
          f"chunk {chunk} of {store.folder / name} is damaged: its values do "
          f"not have the checksum in {path}. Remove that file and run `jaxcal "
          "features` again, which computes the chunk anew.")
  return values


def _check_positions(store, positions):
  """The positions as an array, all of them inside the store and written."""
  positions = np.asarray(positions)
  if not positions.size:
    positions = positions.astype(int)
  if positions.ndim != 1 or positions.dtype.kind not in "iu":
    raise ValueError(f"expected integer positions in one dimension, got "
                     f"{positions.dtype} of {positions.shape=}")
  outside = (positions < 0) | (positions >= store.manifest.num_images)
  if outside.any():
    raise ValueError(f"position {positions[outside][0]} is outside the "
                     f"{store.manifest.num_images} images of {store.folder}")
  for chunk in np.unique(positions // store.manifest.chunk_size):
    if not _finished_path(store, int(chunk)).exists():
      raise FileNotFoundError(
          f"no {_finished_path(store, int(chunk))}: {len(missing(store))} of "
          f"{num_chunks(store)} chunks are not written yet; `jaxcal features` "
          "computes them")
  return positions


def _stored_values(store, name, positions, values):
  """Values of a chunk in the stored dtype, or an error naming an image."""
  values = np.asarray(values)
  expected = (len(positions), *store.arrays[name].shape[1:])
  if values.shape != expected:
    raise ValueError(f"expected {name} of shape {expected} for the images "
                     f"{positions.start} to {positions.stop - 1}, got "
                     f"{values.shape}")

  def first_id(wrong):
    row = int(wrong.reshape(len(positions), -1).any(-1).argmax())
    return store.image_ids[positions[row]]

  finite = np.isfinite(values)
  if not finite.all():
    raise ValueError(f"the {name} of image {first_id(~finite)!r} are not "
                     "finite; are the weights of the model sound?")
  with np.errstate(over="ignore"):
    stored = np.ascontiguousarray(values, store.manifest.dtype)
  finite = np.isfinite(stored)
  if not finite.all():
    raise ValueError(
        f"the {name} of image {first_id(~finite)!r} are beyond the "
        f"{np.finfo(stored.dtype).max:g} of {stored.dtype}; make the store "
        "with dtype float32")
  return stored


def _check_values(manifest):
  """Refuses numbers and names of a manifest that are out of range."""
  precision.check(manifest.image_dtype)
  try:
    paths.check_name(manifest.data)
  except ValueError as error:
    raise ValueError(f"as data set, {error}") from error
  if manifest.dtype not in DTYPES:
    raise ValueError(f"unknown dtype {manifest.dtype!r} of a store; choose "
                     f"from: {', '.join(DTYPES)}")
  for name in ("num_images", "num_views", "feature_size", "pooled_size",
               "chunk_size"):
    if getattr(manifest, name) < 1:
      raise ValueError(f"expected {name} of at least 1, got "
                       f"{getattr(manifest, name)}")


def _check_data(manifest, image_set):
  """Refuses a manifest of other images than those of the set."""
  ours = (len(image_set.ids), data_fingerprint(image_set))
  theirs = (manifest.num_images, manifest.data_fingerprint)
  if ours != theirs:
    raise ValueError(
        f"image set {image_set.name!r} has (num_images, data_fingerprint) "
        f"{ours}, but the manifest says {theirs}")


def _fields(manifest):
  """The fields that must agree, by dotted name, as JSON has them."""
  fields = json.loads(_as_json(manifest._asdict()))
  del fields["chunk_size"], fields["versions"]
  views = fields.pop("views")
  return fields | {f"views.{name}": value for name, value in views.items()}


def _read_manifest(folder):
  path = folder / _MANIFEST
  if not path.exists():
    raise FileNotFoundError(
        f"no {path}; feature stores are written by `jaxcal features`")
  # Stores of earlier versions are of images as they were taken.
  fields = {"corruption": None} | damage.read_object(path, _WAY_OUT)
  version = fields.get("format_version")
  if version != FORMAT_VERSION:
    raise ValueError(f"{path} has the format version {version}; this program "
                     f"reads {FORMAT_VERSION}. {_WAY_OUT}")
  odd = set(fields) ^ set(Manifest._fields)
  if odd:
    raise ValueError(f"{path} is damaged: these fields are missing or too "
                     f"many: {', '.join(sorted(odd))}. {_WAY_OUT}")
  for name, value in fields.items():
    if not _is_a(value, Manifest.__annotations__[name]):
      raise damage.DamagedFile(path, f"{name} is {value!r}", _WAY_OUT)
  manifest = Manifest(**fields)
  try:
    # What is computed from the store is written to folders of this name.
    _check_values(manifest)
  except ValueError as error:
    raise ValueError(f"{path} is damaged, or not to be trusted: {error}. "
                     f"{_WAY_OUT}") from error
  return manifest


def _is_a(value, kind):
  """Whether a value out of JSON is of the type of a field."""
  kinds = (typing.get_args(kind) if isinstance(kind, types.UnionType) else
           (kind,))
  return not isinstance(value, bool) and isinstance(
      value, tuple(typing.get_origin(one) or one for one in kinds))


def _read_index(folder, manifest):
  """Ids, labels and class names of the images."""
  path = folder / _INDEX
  content = path.read_bytes()
  if hashlib.sha256(content).hexdigest() != manifest.data_fingerprint:
    raise ValueError(f"{path} is damaged: its checksum is not that of the "
                     f"manifest. {_WAY_OUT}")
  with damage.told(path, _WAY_OUT):
    about = json.loads(content)
    ids = tuple(about["image_ids"])
    if len(ids) != manifest.num_images:
      raise ValueError(f"{len(ids)} images, of which the manifest has "
                       f"{manifest.num_images}")
    return ids, np.asarray(about["labels"], np.int32), tuple(
        about["class_names"])


def _read_left_out(path):
  """Reasons by id of the images left out; nothing where none was."""
  found = damage.read_object(path, _WAY_OUT) if path.exists() else {}
  if not all(isinstance(reason, str) for reason in found.values()):
    raise damage.DamagedFile(path, "a reason is no text", _WAY_OUT)
  return found


def _refuse_foreign(folder):
  """Refuses a folder with files in it that are not those of a store."""
  # A process that is writing the manifest, or was killed then, has a half one.
  others = [path.name for path in sorted(folder.glob("*"))
            if path.name != _MANIFEST and not atomic.is_leftover(path.name)]
  # In this order: where another process makes the store, the manifest is first.
  if others and not (folder / _MANIFEST).exists():
    raise ValueError(f"{folder} is not a feature store, but holds "
                     f"{others[0]!r}; choose a new folder")


def _index(image_set):
  return _as_json({
      "class_names": image_set.class_names,
      "image_ids": image_set.ids,
      "labels": np.asarray(image_set.labels).tolist(),
  })


def _as_json(fields) -> bytes:
  """Always the same bytes for the same fields."""
  return (json.dumps(fields, indent=1, sort_keys=True) + "\n").encode()


def _finished_path(store, chunk):
  return store.folder / f"finished/{chunk:08d}.json"


def _open_array(folder, manifest, name, create=False):
  import tensorstore as ts

  row = {"view_features": (manifest.num_views, manifest.feature_size),
         "pooled": (manifest.pooled_size,)}[name]
  regular = {"chunk_shape": (manifest.chunk_size, *row)}
  return ts.open({
      "driver": "zarr3",
      "kvstore": {"driver": "file", "path": f"{folder / name}/"},
      # A file for every chunk, even where all values are zero.
      "store_data_equal_to_fill_value": True,
      "metadata": {
          "shape": (manifest.num_images, *row),
          "chunk_grid": {"name": "regular", "configuration": regular},
          # Files beside each other, not each in folders of its own.
          "chunk_key_encoding": {
              "name": "default", "configuration": {"separator": "."}},
          "data_type": manifest.dtype,
          # Not compressed: the bits of features are close to noise.
          "codecs": [
              {"name": "bytes", "configuration": {"endian": "little"}}],
          "fill_value": 0,
      },
  }, open=True, create=create).result()
