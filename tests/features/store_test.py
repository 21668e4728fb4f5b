"""A feature store gives back what was written, and survives being killed."""

import hashlib
import json
import multiprocessing
import pathlib
import random
import signal
import time

from absl.testing import absltest
from absl.testing import parameterized
import ml_dtypes
import numpy as np
import pytest
import tensorstore as ts

from jaxcal.data import image_set as image_sets
from jaxcal.features import store as stores
from jaxcal.storage import atomic
from jaxcal.storage import process as processes

_VIEWS = {"name": "crops", "scale": (0.5, 1.0)}


def _images(num_images=7, **changes):
  return image_sets.ImageSet(
      name="shapes",
      class_names=("disc", "çà", "disc"),
      ids=tuple(f"{i}.png" for i in range(num_images)),
      labels=np.arange(num_images) % 3,
      read=None,
  )._replace(**changes)


def _manifest(images, **changes):
  return stores.Manifest(
      model="tiny", model_fingerprint="ab", data=images.name,
      data_fingerprint=stores.data_fingerprint(images), views=_VIEWS, seed=0,
      image_dtype="highest", num_images=len(images.ids), num_views=3,
      feature_size=4, pooled_size=5, dtype="float32", chunk_size=3,
      versions={"numpy": "2"})._replace(**changes)


def _features(positions):
  """Values that depend on the position alone, as those of images do."""
  rows = [np.random.default_rng(i).normal(size=17) for i in positions]
  rows = np.asarray(rows, np.float32)
  return rows[:, :12].reshape(-1, 3, 4), rows[:, 12:]


def _write(store, chunk):
  stores.write_chunk(store, chunk,
                     *_features(stores.chunk_positions(store, chunk)))


def _keep_writing(folder, images, manifest, process, num_processes, pause,
                  pipe):
  """Makes or opens a store and writes what is missing; for a process."""
  pipe.send("ready")
  store = stores.create(folder, manifest, images)
  for chunk in stores.missing(store, process, num_processes):
    _write(store, chunk)
    time.sleep(pause)
  pipe.send("done")
  pipe.recv()


class _Writer:
  """A process of its own that writes to a store until it is told to end."""

  _context = multiprocessing.get_context("forkserver")
  _context.set_forkserver_preload(["jaxcal.features.store", "tensorstore"])

  def __init__(self, folder, images, manifest, process=0, num_processes=1,
               pause=0.):
    self._pipe, theirs = self._context.Pipe()
    self._process = self._context.Process(
        target=_keep_writing,
        args=(folder, images, manifest, process, num_processes, pause, theirs))
    self._process.start()
    theirs.close()
    assert self._pipe.recv() == "ready"

  def finish(self):
    assert self._pipe.recv() == "done"
    self._end("end")

  def kill(self):
    self._process.kill()
    self._end()

  def _end(self, message=None):
    if message:
      self._pipe.send(message)
    self._process.join()
    self.exitcode = self._process.exitcode
    self._process.close()
    self._pipe.close()


class StoreTest(parameterized.TestCase):

  def _folder(self):
    return pathlib.Path(self.create_tempdir().full_path, "deep", "store")

  def _make(self, num_images=7, complete=True, **changes):
    images = _images(num_images)
    store = stores.create(
        self._folder(), _manifest(images, **changes), images)
    for chunk in stores.missing(store) if complete else ():
      _write(store, chunk)
    return store

  @parameterized.product(dtype=stores.DTYPES, num_images=(6, 7, 2))
  def test_round_trip(self, dtype, num_images):
    store = self._make(num_images, dtype=dtype)
    reopened = stores.open_store(store.folder)
    self.assertEqual(reopened.manifest.dtype, dtype)
    self.assertEqual(reopened.image_ids, _images(num_images).ids)
    self.assertEqual(reopened.class_names, ("disc", "çà", "disc"))
    np.testing.assert_array_equal(reopened.labels, np.arange(num_images) % 3)
    self.assertEqual(reopened.labels.dtype, np.int32)
    for positions in (range(num_images), range(1, num_images),
                      np.random.default_rng(0).permutation(num_images),
                      [1, 0, 1], []):
      theirs = stores.read(reopened, positions)
      if len(positions):
        for ours, values in zip(_features(positions), theirs, strict=True):
          self.assertEqual(values.dtype, dtype)
          self.assertEqual(values.tobytes(), ours.astype(dtype).tobytes())
      np.testing.assert_array_equal(
          stores.read_pooled(reopened, positions), theirs[1])
    self.assertEqual(theirs[0].shape, (0, 3, 4))

  def test_every_bit_of_extreme_values_is_kept(self):
    store = self._make(3, complete=False)
    given = np.zeros((3, 3, 4), np.float32)
    given.flat[:6] = [-0., np.finfo(np.float32).max, np.finfo(np.float32).tiny,
                      1e-45, 1 + 2.**-23, -1e-45]
    pooled = np.full((3, 5), -0., np.float32)
    stores.write_chunk(store, 0, given, pooled)
    theirs = stores.read(store, range(3))
    self.assertEqual(theirs[0].tobytes(), given.tobytes())
    self.assertEqual(theirs[1].tobytes(), pooled.tobytes())

  def test_a_chunk_of_zeros_has_files_as_any_other(self):
    store = self._make(3, complete=False)
    stores.write_chunk(store, 0, np.zeros((3, 3, 4)), np.zeros((3, 5)))
    for name, size in ("view_features/c.0.0.0", 144), ("pooled/c.0.0", 60):
      self.assertEqual((store.folder / name).read_bytes(), bytes(size))

  @parameterized.parameters(np.float64, np.float16, ml_dtypes.bfloat16)
  def test_other_dtypes_are_rounded_once(self, given):
    store = self._make(3, complete=False, dtype="float16")
    values = [x.astype(given) for x in _features(range(3))]
    stores.write_chunk(store, 0, *values)
    for ours, theirs in zip(values, stores.read(store, range(3))):
      np.testing.assert_array_equal(theirs, ours.astype(np.float16))

  def test_zarr_of_any_reader(self):
    store = self._make()
    array = ts.open({"driver": "zarr3", "kvstore": {
        "driver": "file", "path": f"{store.folder}/view_features/"}}).result()
    np.testing.assert_array_equal(array.read().result(), _features(range(7))[0])
    raw = np.fromfile(store.folder / "pooled" / "c.1.0", "<f4").reshape(3, 5)
    np.testing.assert_array_equal(raw, _features(range(3, 6))[1])

  @parameterized.product(batch_size=(1, 2, 3, 5, 9), start=(0, 4, 7))
  def test_batches(self, batch_size, start):
    store = self._make()
    batches = list(stores.batches(store, batch_size=batch_size, start=start))
    self.assertLen(batches, -(-(7 - start) // batch_size))
    for batch in batches:
      self.assertEqual(batch.view_features.shape, (batch_size, 3, 4))
      self.assertEqual(batch.pooled.shape, (batch_size, 5))
      ours = _features(batch.positions)
      np.testing.assert_array_equal(batch.view_features, ours[0])
      np.testing.assert_array_equal(batch.pooled, ours[1])
      self.assertTrue((batch.positions[~batch.mask] == 6).all())
    positions = [p for b in batches for p in b.positions[b.mask].tolist()]
    self.assertEqual(positions, list(range(start, 7)))

  def test_batches_read_each_chunk_once(self):
    store = self._make()
    reads = []

    class Counting:
      shape = store.arrays["view_features"].shape

      def __getitem__(self, rows):
        reads.append(rows.start)
        return store.arrays["view_features"][rows]

    counted = store._replace(
        arrays={**store.arrays, "view_features": Counting()})
    list(stores.batches(counted, batch_size=2))
    self.assertEqual(reads, [0, 3, 6])

  def test_data_fingerprint(self):
    images = _images()
    ours = stores.data_fingerprint(images)
    self.assertRegex(ours, "^[0-9a-f]{64}$")
    self.assertEqual(ours, stores.data_fingerprint(
        images._replace(name="elsewhere", labels=images.labels.astype("int8"))))
    for changes in (dict(ids=images.ids[::-1]),
                    dict(labels=images.labels[::-1]),
                    dict(class_names=("disc", "disc", "çà"))):
      self.assertNotEqual(
          ours, stores.data_fingerprint(images._replace(**changes)))

  def test_work_is_divided(self):
    store = self._make(20, complete=False)
    self.assertEqual(stores.num_chunks(store), 7)
    self.assertEqual(stores.missing(store, 1, 3), [1, 4])
    for process in (0, 2):
      for chunk in stores.missing(store, process, 3):
        _write(store, chunk)
    self.assertEqual(stores.num_finished(store), 5)
    self.assertFalse(stores.is_complete(store))
    self.assertEqual(stores.missing(store), [1, 4])
    self.assertEqual(stores.missing(store, 0, 2), [4])
    for chunk in stores.missing(store):
      _write(store, chunk)
    self.assertTrue(stores.is_complete(store))
    with self.assertRaisesRegex(ValueError, r"process in \[0, 2\), got 2"):
      stores.missing(store, 2, 2)

  def test_reading_while_writing(self):
    store = self._make(complete=False)
    reader = stores.open_store(store.folder)
    _write(store, 1)
    np.testing.assert_array_equal(
        stores.read(reader, [5, 3])[0], _features([5, 3])[0])
    with self.assertRaisesRegex(
        FileNotFoundError, "00000000.json: 2 of 3 chunks.*`jaxcal features`"):
      stores.read(reader, [3, 2])
    with self.assertRaisesRegex(FileNotFoundError, "2 of 3 chunks"):
      stores.batches(reader, batch_size=2)
    with self.assertRaisesRegex(FileNotFoundError, "2 of 3 chunks"):
      stores.read_pooled(reader, [6])
    _write(store, 2)
    self.assertLen(list(stores.batches(reader, batch_size=2, start=3)), 2)

  def test_a_finished_chunk_stays(self):
    store = self._make()
    values = [x + 1 for x in _features(range(3))]
    stores.write_chunk(store, 0, *values)
    np.testing.assert_array_equal(
        stores.read(store, range(3))[0], _features(range(3))[0])

  def test_create_opens_what_is_there(self):
    store = self._make()
    images = _images()
    again = stores.create(
        store.folder,
        _manifest(images, chunk_size=2, versions={"numpy": "3"},
                  views={"name": "crops", "scale": [0.5, 1.0]}), images)
    self.assertEqual(again.manifest.chunk_size, 3)
    self.assertEqual(again.manifest.versions, {"numpy": "2"})
    self.assertTrue(stores.is_complete(again))

  @parameterized.named_parameters((name, {name: value}, stored, repr(value))
                                  for name, value, stored in (
      ("model", "big", "'tiny'"), ("model_fingerprint", "cd", "'ab'"),
      ("data", "other", "'shapes'"), ("seed", 1, "0"),
      ("image_dtype", "default", "'highest'"), ("num_views", 64, "3"),
      ("feature_size", 8, "4"), ("pooled_size", 6, "5"),
      ("dtype", "float16", "'float32'")))
  def test_refuses_another_manifest(self, changes, stored, asked):
    store, images = self._make(), _images()
    name, = changes
    with self.assertRaisesRegex(
        ValueError, f"(?s)^{store.folder} holds other.*\n  {name}: stored "
        f"{stored}, asked {asked}\nChoose another folder"):
      stores.create(store.folder, _manifest(images, **changes), images)

  def test_refuses_naming_every_difference(self):
    store, images = self._make(), _images(8)
    with self.assertRaises(ValueError) as caught:
      stores.create(store.folder, _manifest(
          images, views={"name": "crops", "scale": 0.5, "flip": True}), images)
    fields = [line.split(":")[0].strip()
              for line in str(caught.exception).splitlines()[1:-1]]
    self.assertEqual(fields, ["data_fingerprint", "num_images", "views.flip",
                              "views.scale"])
    self.assertIn("views.flip: stored 'nothing', asked True",
                  str(caught.exception))
    stores.check(store.manifest, _manifest(_images(), chunk_size=9))

  def test_refuses_manifests_that_make_no_sense(self):
    images = _images()
    for changes, message in (
        (dict(dtype="int8"), "'int8'.*choose from: float16, float32"),
        (dict(image_dtype="float32"), "precision 'float32'.*from: highest"),
        (dict(chunk_size=0), "chunk_size of at least 1, got 0"),
        (dict(num_views=0), "num_views of at least 1"),
        (dict(num_images=6), "'shapes' has .*7.*manifest says .*6"),
        (dict(data_fingerprint="ab"), "manifest says .*'ab'")):
      folder = self._folder()
      with self.assertRaisesRegex(ValueError, message):
        stores.create(folder, _manifest(images, **changes), images)
      self.assertFalse(folder.exists())

  def test_refuses_folders_that_are_no_store(self):
    images, folder = _images(), self._folder()
    with self.assertRaisesRegex(
        FileNotFoundError, "manifest.json; .* written by `jaxcal features`"):
      stores.open_store(folder)
    folder.mkdir(parents=True)
    (folder / "cat.jpg").touch()
    with self.assertRaisesRegex(ValueError, "not a feature store.*'cat.jpg'"):
      stores.create(folder, _manifest(images), images)
    self.assertLen(list(folder.iterdir()), 1)

  @parameterized.parameters(
      (lambda text: text[:-9], "manifest.json is damaged"),
      (lambda text: b"", "manifest.json is damaged"),
      (lambda text: b"[1]", "manifest.json is damaged"),
      (lambda text: text.replace(b"sion\": 2", b"sion\": 3"),
       "format version 3; this program reads 2"),
      (lambda text: b"{}", "format version None"),
      (lambda text: text.replace(b"seed", b"sead"), "damaged.*: sead, seed"))
  def test_refuses_bad_manifests(self, change, message):
    store, images = self._make(), _images()
    path = store.folder / "manifest.json"
    path.write_bytes(change(path.read_bytes()))
    with self.assertRaisesRegex(ValueError, message):
      stores.open_store(store.folder)
    with self.assertRaisesRegex(ValueError, message):
      stores.create(store.folder, _manifest(images), images)

  @parameterized.parameters("../../x", "/tmp/x", "..", "", "a/b", "a\0b")
  def test_names_that_lead_out_of_the_folder(self, name):
    store, images = self._make(), _images(name=name)
    path = store.folder / "manifest.json"
    fields = json.loads(path.read_bytes())
    path.write_text(json.dumps(fields | {"data": name}))
    with self.assertRaisesRegex(
        ValueError, "manifest.json is damaged, or not .*one name"):
      stores.open_store(store.folder)
    folder = self._folder()
    with self.assertRaisesRegex(ValueError, "cannot be the name of a file"):
      stores.create(folder, _manifest(images), images)
    self.assertFalse(folder.exists())

  @parameterized.parameters(
      ("num_images", "7"), ("num_images", True), ("num_images", 0),
      ("num_views", None), ("seed", 0.5), ("views", [1]), ("model", 3),
      ("corruption", "fog"), ("dtype", "int8"), ("image_dtype", "half"))
  def test_manifests_with_other_values(self, name, value):
    store = self._make()
    path = store.folder / "manifest.json"
    fields = json.loads(path.read_bytes())
    path.write_text(json.dumps(fields | {name: value}))
    with self.assertRaisesRegex(ValueError, "manifest.json is damaged"):
      stores.open_store(store.folder)

  @parameterized.parameters(
      ("labels", [0, 1]), ("labels", [9] * 7), ("labels", "x"),
      ("image_ids", ["a"] * 7), ("class_names", 3), ("image_ids", None))
  def test_an_index_that_is_none(self, name, value):
    store = self._make()
    path, manifest = (store.folder / f"{one}.json"
                      for one in ("index", "manifest"))
    content = json.dumps(json.loads(path.read_bytes()) | {name: value})
    path.write_text(content)
    manifest.write_text(json.dumps(json.loads(manifest.read_bytes()) | {
        "data_fingerprint": hashlib.sha256(content.encode()).hexdigest()}))
    with self.assertRaisesRegex(ValueError, "index.json is damaged"):
      stores.open_store(store.folder)

  def test_other_files_of_json(self):
    store = self._make()
    (store.folder / "left_out.json").write_text('{"a": 3}')
    with self.assertRaisesRegex(ValueError, "left_out.json is damaged"):
      stores.open_store(store.folder)
    (store.folder / "left_out.json").unlink()
    for text in ("{", "{}", '{"a":' * 100_000 + "1" + "}" * 100_000):
      (store.folder / "pooled/zarr.json").write_text(text)
      with self.assertRaisesRegex(ValueError, "pooled/zarr.json is damaged"):
        stores.open_store(store.folder)

  def test_refuses_damaged_index(self):
    store = self._make()
    path = store.folder / "index.json"
    path.write_text(path.read_text().replace("disc", "disk"))
    with self.assertRaisesRegex(ValueError, "index.json is damaged"):
      stores.open_store(store.folder)

  @parameterized.product(array=("view_features", "pooled"),
                         damage=("flip", "cut", "gone"))
  def test_damaged_chunk_is_found_and_computed_again(self, array, damage):
    store = self._make()
    path = store.folder / array / ("c.1.0.0" if array[0] == "v" else "c.1.0")
    content = bytearray(path.read_bytes())
    if damage == "flip":
      content[17] ^= 1
      path.write_bytes(content)
    elif damage == "cut":
      path.write_bytes(content[:-1])
    else:
      path.unlink()
    store = stores.open_store(store.folder)
    marker = store.folder / "finished" / "00000001.json"
    message = f"chunk 1 of .*{array} is damaged.*{marker}. Remove that file"
    with self.assertRaisesRegex(ValueError, message):
      stores.read(store, [4])
    with self.assertRaisesRegex(ValueError, message):
      list(stores.batches(store, batch_size=4))
    stores.read(store, [0, 6])
    marker.unlink()
    self.assertEqual(stores.missing(store), [1])
    _write(store, 1)
    np.testing.assert_array_equal(
        stores.read(store, [4])[0], _features([4])[0])

  @parameterized.parameters(b"", b"{}", b"[]")
  def test_damaged_checksums(self, content):
    store = self._make()
    marker = store.folder / "finished" / "00000001.json"
    marker.write_bytes(content)
    with self.assertRaisesRegex(ValueError, f"chunk 1 .*{marker}. Remove"):
      stores.read(store, [3])

  @parameterized.parameters(-1, 7)
  def test_refuses_positions_outside(self, position):
    store = self._make()
    with self.assertRaisesRegex(ValueError, f"position {position} is outside"):
      stores.read(store, [0, position])

  def test_refuses_what_is_no_position(self):
    store = self._make()
    for positions in ([0.5], [[0]], np.ones(7, bool)):
      with self.assertRaisesRegex(ValueError, "expected integer positions"):
        stores.read(store, positions)
    with self.assertRaisesRegex(ValueError, "batch_size=0"):
      stores.batches(store, batch_size=0)
    with self.assertRaisesRegex(ValueError, "start=8"):
      stores.batches(store, batch_size=1, start=8)

  def test_refuses_bad_values(self):
    store = self._make(complete=False, dtype="float16")
    views, pooled = _features(range(3, 6))

    def changed(values, value):
      values = values.copy()
      values[1:, ..., 2] = value
      return values

    for bad in (np.nan, np.inf, -np.inf):
      with self.assertRaisesRegex(
          ValueError, "view_features of image '4.png' are not finite"):
        stores.write_chunk(store, 1, changed(views, bad), pooled)
      with self.assertRaisesRegex(
          ValueError, "pooled of image '4.png' are not finite"):
        stores.write_chunk(store, 1, views, changed(pooled, bad))
    with self.assertRaisesRegex(
        ValueError, "pooled of image '4.png' are beyond the 65504 of float16; "
        "make the store with dtype float32"):
      stores.write_chunk(store, 1, views, changed(pooled, -65520))
    with self.assertRaisesRegex(
        ValueError, r"view_features of shape \(3, 3, 4\).*3 to 5, got \(2, 3"):
      stores.write_chunk(store, 1, views[:2], pooled)
    with self.assertRaisesRegex(ValueError, r"\(1, 5\).*got \(3, 5\)"):
      stores.write_chunk(store, 2, views[:1], pooled)
    for chunk in (-1, 3):
      with self.assertRaisesRegex(ValueError, r"chunk in \[0, 3\).*got"):
        stores.write_chunk(store, chunk, views, pooled)
    self.assertEqual(stores.num_finished(store), 0)
    self.assertEqual([p for p in store.folder.rglob("c.*")], [])
    stores.write_chunk(store, 1, views, changed(pooled, 65519))
    self.assertEqual(stores.read(store, [4])[1][0, 2], 65504)


class ProcessesTest(absltest.TestCase):

  def _folder(self):
    return pathlib.Path(self.create_tempdir().full_path, "store")

  def _wait_until(self, condition):
    begun = time.monotonic()
    while not condition():
      self.assertLess(time.monotonic() - begun, 60)
      time.sleep(0.005)

  def _undisturbed(self, images, manifest):
    store = stores.create(self._folder(), manifest, images)
    for chunk in stores.missing(store):
      _write(store, chunk)
    return _contents(store.folder)

  @pytest.mark.slow
  def test_two_writers_and_a_reader(self):
    images, folder = _images(50), self._folder()
    manifest = _manifest(images)
    # The third does the work of the first once more.
    writers = [_Writer(folder, images, manifest, process, 2, pause=0.002)
               for process in (0, 1, 0)]
    self._wait_until((folder / "finished").exists)
    store = stores.open_store(folder)

    def read_all():
      chunks = set(range(17)) - set(stores.missing(store))
      for chunk in chunks:
        positions = stores.chunk_positions(store, chunk)
        theirs = stores.read(store, positions)
        np.testing.assert_array_equal(theirs[0], _features(positions)[0])
      return len(chunks) == 17

    self._wait_until(read_all)
    for writer in writers:
      writer.finish()
      self.assertEqual(writer.exitcode, 0)
    self.assertEqual(_contents(folder), self._undisturbed(images, manifest))

  @pytest.mark.slow
  def test_killed_ten_times(self):
    images, folder = _images(599), self._folder()
    manifest = _manifest(images)
    rng, finished = random.Random(0), {}
    for kill in range(10):
      writer = _Writer(folder, images, manifest, pause=0.002)
      if kill % 2:  # at a random moment after a chunk, else one after the start
        self._wait_until(lambda: len(_finished_files(folder)) > len(finished))
      time.sleep(rng.uniform(0, 0.05))
      writer.kill()
      self.assertEqual(writer.exitcode, -signal.SIGKILL)
      now = _finished_files(folder)
      # Neither written again nor replaced by a copy.
      self.assertEqual(finished, {name: now[name] for name in finished})
      finished = now
    writer = _Writer(folder, images, manifest)
    writer.finish()
    now = _finished_files(folder)
    self.assertLen(now, 3 * 200)
    self.assertEqual(finished, {name: now[name] for name in finished})
    self.assertEqual(_contents(folder), self._undisturbed(images, manifest))

  def test_killed_while_making_the_store(self):
    images, manifest = _images(), _manifest(_images())
    expected = self._undisturbed(images, manifest)
    for kept in ((), ("manifest.json",), ("manifest.json", "index.json"),
                 ("manifest.json", "index.json", "pooled/zarr.json")):
      folder = self._folder()
      for name in kept:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(expected[name])
      if kept:
        with self.assertRaisesRegex(FileNotFoundError, "was interrupted"):
          stores.open_store(folder)
      folder.mkdir(exist_ok=True)
      if len(kept) < 2:
        # Of the process that was killed, which had more to write.
        (folder / atomic.leftover_name(
            processes.current()._replace(pid=2**30))).write_bytes(b"x" * 9999)
      store = stores.create(folder, manifest, images)
      for chunk in stores.missing(store):
        _write(store, chunk)
      self.assertEqual(_contents(folder), expected)


def _contents(folder):
  return {path.relative_to(folder).as_posix(): path.read_bytes()
          for path in folder.rglob("*") if path.is_file()}


def _finished_files(folder):
  """Inode and time of change of every file of the finished chunks."""
  files = {}
  for marker in folder.glob("finished/*.json"):
    chunk = int(marker.stem)
    for path in (marker, folder / f"view_features/c.{chunk}.0.0",
                 folder / f"pooled/c.{chunk}.0"):
      status = path.stat()
      files[str(path)] = status.st_ino, status.st_mtime_ns
  return files


if __name__ == "__main__":
  absltest.main()
