"""Files of other programs: predictions, features, parquet files, CIFAR."""

import functools
import importlib.util
import io
import unittest

from absl.testing import absltest
import hypothesis
from hypothesis import strategies as st
import numpy as np

from jaxcal.data import catalogue
from jaxcal.data import cifar
from jaxcal.data import parquet_files
from jaxcal.report import diagnosis
from jaxcal.report import foreign
from jaxcal.report import from_files
from tests.faults import fuzz
from tests.faults import images_test

_LOGITS = {"logits": np.random.default_rng(0).normal(size=(4, 3)),
           "labels": np.array([0, 1, 2, 1]),
           "ids": np.array(["a", "b", "c", "d"]),
           "class_names": np.array(["cat", "dog", "owl"])}
_CONFIDENCES = {"confidence": np.array([0.5, 0.9, 1.0]),
                "predicted": np.array([0, 1, 1]), "labels": np.array([0, 1, 2])}
_CSVS = (b"image,label,prob_cat,prob_dog\na,0,0.25,0.75\nb,1,0.5,0.5\n",
         b"label,predicted,confidence\ncat,cat,0.5\ndog,cat,1.0\n",
         b"confidence,correct\n0.5,1\n0.25,0\n",
         b",label,cat,dog\n0,cat,1.5,-2\n1,dog,0,3e2\n")
_CELLS = ("", "nan", "inf", "-1", "1e400", "2", "0x1", "1_0", "\u0661", " 1 ",
          "cat", '"', ",", "\0", "9" * 5000, "0.5;0.5", "label", "confidence")


@st.composite
def _csv(draw):
  content = draw(st.sampled_from(_CSVS))
  if draw(st.booleans()):
    return draw(fuzz.damaged(content))
  cells = content.decode().replace("\n", ",\n,").split(",")
  cells[draw(st.integers(0, len(cells) - 1))] = draw(st.sampled_from(_CELLS))
  return ",".join(cells).replace(",\n,", "\n").encode(
      draw(st.sampled_from(("utf-8", "utf-8-sig", "utf-16", "latin-1"))),
      "replace")


def _npy(value):
  file = io.BytesIO()
  np.save(file, value)
  return file.getvalue()


class PredictionsTest(fuzz.FaultCase):

  def _load(self, name, content):
    path = self.root / name
    path.write_bytes(content)
    found = self.read(f"predictions of others, {path.suffix}",
                      lambda: foreign.read(path), name)
    self.read(f"labels of others, {path.suffix}",
              lambda: foreign.read_labels(path), name)
    if found is not None:
      self.assertTrue(np.isfinite(np.asarray(found.given.values)).all())
      self.read(f"predictions of others, {path.suffix}",
                lambda: from_files.plan({"theirs": str(path)}, data="pets"),
                name, "theirs")

  @hypothesis.given(_csv())
  def test_csv(self, content):
    self._load("theirs.csv", content)

  @hypothesis.given(st.one_of(*(
      strategy for arrays in (_LOGITS, _CONFIDENCES) for strategy in (
          fuzz.broken_arrays(arrays),
          fuzz.broken_arrays(arrays).flatmap(fuzz.damaged)))))
  def test_npz(self, content):
    self._load("theirs.npz", content)

  @hypothesis.given(st.one_of(
      fuzz.damaged(_npy(np.eye(3, dtype=np.float32))), fuzz.npy_with_a_lie(),
      fuzz.another_array(np.eye(3)).map(_npy)))
  def test_npy(self, content):
    self._load("theirs.npy", content)
    path = self.root / "theirs.npy"
    self.read("text features", lambda: diagnosis.read_features(path), path.name)


@functools.cache
def _parquet():
  import pyarrow
  from pyarrow import parquet
  table = pyarrow.table({
      "image": [{"bytes": images_test.SOUND["PNG"], "path": "1.png"}] * 3,
      "label": [0, 1, 1]})
  table = table.replace_schema_metadata({"huggingface": (
      '{"info": {"features": {"image": {"_type": "Image"}, "label": {"names": '
      '["cat", "dog"], "_type": "ClassLabel"}}}}')})
  file = io.BytesIO()
  parquet.write_table(table, file, row_group_size=2)
  return file.getvalue()


@st.composite
def _other_table(draw):
  """A sound parquet file of other columns."""
  import pyarrow
  from pyarrow import parquet
  images = draw(st.sampled_from((
      [images_test.SOUND["PNG"]] * 2, [None, b""], ["x", "y"], [1, 2],
      [{"bytes": None, "path": "1.png"}] * 2, [[b"x"]] * 2, [],
      [{"path": "x"}] * 2, [{"bytes": "x"}] * 2)))
  labels = draw(st.sampled_from((
      [0, 1], [0, None], ["cat", "dog"], [0.5, 1], [True, False], [-1, 2**40],
      [[0], [1]], [b"cat", b"\xff"], [], ["", "\0"], ["9" * 5000] * 2)))
  size = min(len(images), len(labels))
  names = draw(st.sampled_from((
      ("image", "label"), ("img", "fine_label"), ("image", "image"),
      ("label", "label"), ("x", "y"), ("", "label"))))
  table = pyarrow.Table.from_arrays(
      [pyarrow.array(images[:size]), pyarrow.array(labels[:size])],
      names=list(names))
  about = draw(st.one_of(st.none(), fuzz.broken_json(
      {"info": {"features": {"image": {"_type": "Image"}, "label": {
          "_type": "ClassLabel", "names": ["cat", "dog"]}}}})))
  if about is not None:
    table = table.replace_schema_metadata(
        {"huggingface": about.encode("utf-8", "replace")})
  file = io.BytesIO()
  parquet.write_table(table, file)
  return file.getvalue()


@unittest.skipIf(importlib.util.find_spec("pyarrow") is None,
                 "pyarrow is not installed: nothing checked")
class ParquetTest(fuzz.FaultCase):
  num_bytes = fuzz.COMPILING_BYTES  # it reserves as much, too

  def _load(self, content):
    path = self.root / "pets.parquet"
    path.write_bytes(content)
    found = self.read("parquet file", lambda: parquet_files.read(path),
                      path.name, "'pets'")
    for position in range(0 if found is None else len(found.ids)):
      self.read("image in a parquet file", lambda: found.read(position),
                path.name)
    self.read("predictions of others, .parquet",
              lambda: foreign.read(path), path.name)

  @hypothesis.given(st.deferred(lambda: fuzz.damaged(_parquet())))
  def test_bytes(self, content):
    self._load(content)

  @hypothesis.given(_other_table())
  def test_columns(self, content):
    self._load(content)

  @fuzz.fewer(0.5)
  @hypothesis.given(fuzz.damaged(
      b"dataset_info:\n  features:\n  - name: label\n    dtype:\n      "
      b"class_label:\n        names:\n          '0': cat\n          '1': dog\n"
  ))
  def test_readme(self, content):
    import pyarrow
    from pyarrow import parquet
    table = pyarrow.table({"image": [images_test.SOUND["PNG"]] * 2,
                           "label": [0, 1]})
    parquet.write_table(table, self.root / "test.parquet")
    (self.root / "README.md").write_bytes(content)
    self.read("README.md", lambda: parquet_files.read(self.root), "README.md",
              "inside")


class CifarTest(fuzz.FaultCase):

  @fuzz.fewer(0.5)
  @hypothesis.given(
      fuzz.damaged(b"".join(bytes([label]) + bytes(3072)
                            for label in range(3))),
      fuzz.damaged(b"airplane\nautomobile\n"))
  def test_binary(self, content, names):
    (self.root / "test_batch.bin").write_bytes(content)
    (self.root / "batches.meta.txt").write_bytes(names)
    self.read("CIFAR-10", lambda: cifar.read(
        self.root, split="test",
        class_names=catalogue.row("cifar10").class_names),
              "test_batch.bin", "batches.meta.txt", "cifar10")


if __name__ == "__main__":
  absltest.main()
