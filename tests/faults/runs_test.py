"""Files that jaxcal has written itself, broken before it reads them again."""

import json
from unittest import mock

from absl.testing import absltest
import hypothesis
from hypothesis import strategies as st
import jax
import numpy as np
from safetensors import numpy as safetensors

from jaxcal import parts
from jaxcal import predictions
from jaxcal import stages
from jaxcal.features import store as stores
from jaxcal.posterior import curvature
from jaxcal.posterior import files as posterior_files
from jaxcal.posterior import laplace
from jaxcal.storage import identity
from jaxcal.storage import lock
from jaxcal.storage import output_folder
from jaxcal.storage import pair
from jaxcal.storage import pytree
from jaxcal.tuning import checkpoint
from jaxcal.tuning import methods
from tests.faults import fuzz
from tests.features import store_test

_IDS = ("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png")
_CHECKSUMS = ("sha256", "sha256_json")


def _predictions():
  rng = np.random.default_rng(0)
  return predictions.Predictions(
      rng.normal(size=(4, 3)).astype(np.float32),
      np.array([0, 0, 1, 2], np.int32), _IDS, ("cat", "dog", "owl"),
      {"entropy": np.ones(4, np.float32)},
      stages.setting(stages.Stages("zero_shot")) | {
          "identity": {"data.ids": "ab"}, "evidence": ["image_features"]},
      {"image_features": np.ones((4, 2), np.float32)})


def _arrays_of(path):
  with np.load(path) as stored:
    return {name: stored[name] for name in stored.files}


def _without_checksums(path):
  """What a file of JSON says, as version 0.1.0 wrote it."""
  about = json.loads(path.read_bytes())
  return {name: value for name, value in about.items()
          if name not in _CHECKSUMS}


class PairCase(fuzz.FaultCase):
  """Two files that belong together, of which one is broken.

  A case of its own has `write(path)`, which writes both, and `readers(path)`.
  """

  what = ""
  ending = "npz"

  def setUp(self):
    super().setUp()
    # Between tries to read what another process may be writing.
    self.enter_context(mock.patch.object(pair, "_PAUSE", 0))

  def _check(self, files):
    """Reads files of which some are others, in each way there is."""
    path = self.fresh() / "one"
    self.write(path)
    for ending, content in files.items():
      path.with_suffix(f".{ending}").write_bytes(content)
    for reader in self.readers(path):
      self.read(self.what, reader, "one")

  def _sound(self):
    path = self.fresh() / "one"
    self.write(path)
    return {ending: path.with_suffix(f".{ending}")
            for ending in (self.ending, "json")}

  def _damaged(self, data):
    sound = self._sound()
    ending = data.draw(st.sampled_from(sorted(sound)))
    self._check({ending: data.draw(fuzz.damaged(sound[ending].read_bytes()))})

  def _other_json(self, data):
    sound = self._sound()["json"]
    about = (_without_checksums(sound) if data.draw(st.booleans()) else
             json.loads(sound.read_bytes()))
    self._check({"json": data.draw(fuzz.damaged_json(about))})

  def _other_arrays(self, data):
    sound = self._sound()
    about = json.dumps(_without_checksums(sound["json"])).encode()
    self._check({"json": about, "npz": data.draw(
        fuzz.broken_arrays(_arrays_of(sound["npz"])))})


class PredictionsTest(PairCase):
  what = "predictions"

  def write(self, path):
    predictions.save(_predictions(), path)

  def readers(self, path):
    return (lambda: predictions.load(path), lambda: predictions.images(path),
            lambda: predictions.settings(path),
            lambda: predictions.is_there(
                path, {"data.ids": "ab"}, evidence=("image_features",)))

  @hypothesis.given(st.data())
  def test_bytes(self, data):
    self._damaged(data)

  @hypothesis.given(st.data())
  def test_json(self, data):
    self._other_json(data)

  @hypothesis.given(st.data())
  def test_arrays(self, data):
    self._other_arrays(data)


class PosteriorTest(PairCase):
  what = "posterior"
  num_bytes = fuzz.COMPILING_BYTES

  def write(self, path):
    layer = laplace.Layer(np.eye(3, dtype=np.float32),
                          np.eye(2, dtype=np.float32))
    laplace.save(path, laplace.Posterior(layer, layer), {"pseudo_count": 4.0})

  def readers(self, path):
    return (lambda: laplace.load(path),)

  @fuzz.fewer(0.5)
  @hypothesis.given(st.data())
  def test_bytes(self, data):
    self._damaged(data)

  @fuzz.fewer(0.5)
  @hypothesis.given(st.data())
  def test_json(self, data):
    self._other_json(data)

  @hypothesis.given(st.data())
  def test_arrays(self, data):
    self._other_arrays(data)


class TunedTest(PairCase):
  what = "tuned parameters"
  ending = "safetensors"

  def write(self, path):
    checkpoint.save(path, checkpoint.Tuned(
        methods.Spec("coop"), {"context": np.ones((4, 6), np.float32)},
        ("cat", "dog"), np.array([0, 1]),
        {"seed": 1, "model.fingerprint": "ab"}))

  def readers(self, path):
    return (lambda: checkpoint.read(path), lambda: checkpoint.about(path))

  @fuzz.fewer(0.5)
  @hypothesis.given(st.data())
  def test_bytes(self, data):
    self._damaged(data)

  @hypothesis.given(st.data())
  def test_json(self, data):
    self._other_json(data)

  @fuzz.fewer(0.5)
  @hypothesis.given(st.data())
  def test_safetensors(self, data):
    about = json.dumps(_without_checksums(self._sound()["json"])).encode()
    sound = safetensors.save({"context": np.ones((4, 6), np.float32)})
    self._check({"json": about, "safetensors": data.draw(fuzz.damaged(sound))})


class FactorsTest(fuzz.FaultCase):
  num_bytes = fuzz.COMPILING_BYTES

  def setUp(self):
    super().setUp()
    rng = np.random.default_rng(0)
    square = lambda size: (lambda x: np.float32(x @ x.T))(
        rng.standard_normal((size, 2 * size)))
    self._found = posterior_files.fitted(
        {side: curvature.Factors(square(4), square(3), 50)
         for side in posterior_files.SIDES},
        {"model": "tiny", "model_fingerprint": "ab",
         "weight_norm2": {"image": 2.5, "text": 1.5}})
    self._evidence = posterior_files.maximise_evidence(self._found)
    posterior_files.write(self.root, self._found, self._evidence)

  def _read(self):
    found = posterior_files.read(self.root)
    return posterior_files.maximise_evidence(found)

  @hypothesis.given(st.data())
  def test_factors(self, data):
    name = data.draw(st.sampled_from(("factors.npz", "spectra.npz")))
    for one in ("factors.npz", "spectra.npz"):
      self._restore(one)
    path = self.root / name
    path.write_bytes(data.draw(st.one_of(
        fuzz.damaged(path.read_bytes()),
        fuzz.broken_arrays(_arrays_of(path)))))
    self.read("posterior's factors", self._read, name, str(self.root))

  @hypothesis.given(st.data())
  def test_manifest(self, data):
    path = self.root / "manifest.json"
    self._restore(path.name)
    about = json.loads(path.read_bytes())
    about.pop("factors")
    path.write_bytes(data.draw(fuzz.damaged_json(about)))
    self.read("posterior's manifest", self._read, path.name, str(self.root))

  def _restore(self, name):
    beside = self._outer.parent / f"{self._outer.name}-sound"
    if not beside.exists():
      posterior_files.write(beside, self._found, self._evidence)
    (self.root / name).write_bytes((beside / name).read_bytes())


class UnfinishedTest(fuzz.FaultCase):
  num_bytes = fuzz.COMPILING_BYTES

  def _open(self):
    parts.open_folder(self.root / "parts", _IDS, ("tpt",), order=[0, 1, 2, 3],
                      identity={"model": "ab"})

  @hypothesis.given(st.data())
  def test_about(self, data):
    self.fresh()
    self._open()
    path = self.root / "parts/about.json"
    path.write_bytes(data.draw(fuzz.damaged_json(
        json.loads(path.read_bytes()))))
    self.read("parts of a run", self._open, "about.json", "parts")
    self.read("parts of a run", lambda: parts.names(self.root / "parts"))
    self.read("parts of a run", lambda: parts.gather(
        self.root / "parts", "tpt"), "about.json", "parts")

  @hypothesis.given(st.data())
  def test_parts(self, data):
    self.fresh()
    self._open()
    folder = self.root / "parts"
    rows = {"tpt": {"scores": np.ones((2, 3), np.float32)}}
    for first in (0, 2):
      parts.write(folder, np.array([first, first + 1]), rows)
    path = folder / "00000000.npz"
    path.write_bytes(data.draw(st.one_of(
        fuzz.damaged(path.read_bytes()),
        fuzz.broken_arrays(_arrays_of(path)))))
    missing = self.read("parts of a run", lambda: parts.missing(folder, 4))
    self.assertIsNotNone(missing)  # damaged ones are set aside
    self.read("parts of a run", lambda: parts.gather(folder, "tpt"), "parts")

  @hypothesis.given(st.data())
  def test_states(self, data):
    path = self.fresh() / "state-1.npz"
    like = {"a": np.ones((2, 3), np.float32), "b": jax.random.key(0)}
    pytree.save(path, like, {"model": "ab"})
    path.write_bytes(data.draw(st.one_of(
        fuzz.damaged(path.read_bytes()),
        fuzz.broken_arrays(_arrays_of(path)))))
    self.read("state of a run", lambda: pytree.load(
        path, like, {"model": "ab"}), path.name)

  @hypothesis.given(st.data())
  def test_digests(self, data):
    path = self.fresh() / "digests.npz"
    identity.remember(path, _IDS, identity.Digests(
        np.arange(4), np.arange(4), np.ones((4, 32), np.uint8)))
    path.write_bytes(data.draw(st.one_of(
        fuzz.damaged(path.read_bytes()),
        fuzz.broken_arrays(_arrays_of(path)))))
    found = self.read("digests of images", lambda: (
        identity.remembered(path, _IDS), True))
    self.assertIsNotNone(found)

  @fuzz.fewer(0.5)
  @hypothesis.given(fuzz.damaged_json({
      "host": "x", "command": "x", "since": "x", "machine": "ab", "pid": 1,
      "started": 1, "token": "ab"}))
  def test_lock(self, content):
    (self.fresh() / lock.NAME).write_bytes(content)

    def hold():
      with lock.hold(self.root):
        return True

    self.read("lock", hold, str(self.root))

  @fuzz.fewer(0.5)
  @hypothesis.given(fuzz.damaged_json({"config.batch_size": 2, "a": [1]}))
  def test_settings(self, content):
    path = self.root / "run.json"
    path.write_bytes(content)
    self.read("run.json", lambda: output_folder.read_settings(path), path.name)


class StoreTest(fuzz.FaultCase):

  def _write(self):
    images = store_test._images(4)
    store = stores.create(
        self.fresh() / "store", store_test._manifest(images), images)
    for chunk in range(2):
      store_test._write(store, chunk)

  def _read(self, *names):
    def read():
      store = stores.open_store(self.root / "store")
      stores.image_set(store)
      return stores.read(store, range(4)), stores.read_pooled(store, range(2))
    self.read("feature store", read, *names, str(self.root / "store"))

  @fuzz.fewer(0.6)
  @hypothesis.given(st.data())
  def test_json(self, data):
    self._write()
    name = data.draw(st.sampled_from((
        "manifest.json", "manifest.json", "index.json", "left_out.json",
        "finished/00000000.json", "pooled/zarr.json")))
    path = self.root / "store" / name
    sound = json.loads(path.read_bytes()) if path.exists() else {"a": "b"}
    path.write_bytes(data.draw(fuzz.damaged_json(sound)))
    self._read(name)

  @fuzz.fewer(0.4)
  @hypothesis.given(st.data())
  def test_chunks(self, data):
    self._write()
    path = data.draw(st.sampled_from(sorted(
        (self.root / "store").glob("*/c*"))))
    path.write_bytes(data.draw(fuzz.damaged(path.read_bytes())))
    self._read(path.name)


if __name__ == "__main__":
  absltest.main()
