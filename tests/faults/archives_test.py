"""Tars and archives, broken or made to do harm."""

import collections
import gzip
import io
import tarfile
import zipfile

from absl.testing import absltest
import hypothesis
from hypothesis import strategies as st
import pytest

from jaxcal.data import archives
from jaxcal.data import image_set as image_sets
from jaxcal.data import labelled_tars
from jaxcal.data import load
from jaxcal.data import pairs
from tests.faults import fuzz
from tests.faults import images_test

# What members may be called.
_NAMES = (
    "cat/1.png", "dog/1.png", "./cat/2.png", "cat//1.png", "cat/./3.png",
    "../others", "cat/../../others", "/etc/others", "C:/others", "..",
    "cat\\..\\..\\others", "cat", "cat/", "", ".", "/", "__MACOSX/._1.png",
    "x" * 300, "x/" * 200 + "1.png", "caf\udce9.png", "a\nb", "cat/1.PNG",
    "jaxcal.lock", "cat/1.png/2.png")
_KINDS = (tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE,
          tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.CONTTYPE,
          tarfile.GNUTYPE_SPARSE, b"9")


@st.composite
def _tar(draw):
  """A tar of anything."""
  file = io.BytesIO()
  with tarfile.open(fileobj=file, mode="w", format=draw(st.sampled_from(
      (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)))) as tar:
    for name in draw(st.lists(st.sampled_from(_NAMES), max_size=5)):
      member = tarfile.TarInfo(name)
      member.type = draw(st.sampled_from((_KINDS[0], *_KINDS)))
      member.linkname = draw(st.sampled_from(
          ("", "../others", "/etc", "cat", "cat/1.png", ".")))
      content = draw(st.binary(max_size=99)) if member.isreg() else b""
      member.size = len(content)
      try:
        tar.addfile(member, io.BytesIO(content))
      except ValueError:  # a name that this format cannot hold
        continue
  return file.getvalue()


@st.composite
def _zip(draw):
  """A zip of anything."""
  file = io.BytesIO()
  with zipfile.ZipFile(file, "w") as archive:
    names = draw(st.lists(st.sampled_from(_NAMES), max_size=5, unique=True))
    for name in names:
      member = zipfile.ZipInfo("x")
      # As it stands there: the constructor mends some.
      member.filename = name.encode("utf-8", "replace").decode()
      member.external_attr = draw(st.sampled_from(
          (0, 0o100644, 0o040755, 0o120777, 0o010644, 0o020644))) << 16
      member.compress_type = draw(st.sampled_from(
          (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA)))
      archive.writestr(member, draw(st.sampled_from(
          (b"", b"x" * 99, bytes(10**6)))))
  return file.getvalue()


def _maybe_damaged(archive):
  return st.one_of(archive, archive.flatmap(fuzz.damaged))


class ArchivesTest(fuzz.FaultCase):

  def _unpack(self, suffix, content):
    """Nothing is written if anything is refused, and nothing elsewhere."""
    self.fresh()
    path = self.root / f"pets{suffix}"
    path.write_bytes(content)
    found = self.read(f"archive, {suffix}", lambda: archives.members(path),
                      path.name)
    done = self.read(f"archive, {suffix}", lambda: archives.unpack(
        path, self.root / "pets/images", root=self.root / "pets"),
                     path.name, "images")
    target = self.root / "pets"
    if found is None:
      self.assertIsNone(done)
      self.assertFalse(target.exists())
    elif done is not None:
      there = [one for one in target.rglob("*") if one.is_file()]
      self.assertLen(there, len(found))
      self.assertEqual(sum(one.size for one in found),
                       sum(one.stat().st_size for one in there))
    self.assertFalse(any(one.is_symlink() for one in target.rglob("*")))

  @hypothesis.given(_maybe_damaged(_tar()))
  def test_tar(self, content):
    self._unpack(".tar", content)

  @hypothesis.given(_maybe_damaged(_zip()))
  def test_zip(self, content):
    self._unpack(".zip", content)

  @fuzz.fewer(0.5)
  @hypothesis.given(_maybe_damaged(_tar()), st.booleans(), st.data())
  @pytest.mark.slow
  def test_compressed(self, content, inside, data):
    packed = gzip.compress(content)
    if not inside:
      packed = data.draw(fuzz.damaged(packed))
    self._unpack(data.draw(st.sampled_from((".tar.gz", ".tgz"))), packed)


_PARTS = ("1.cls", "1.jpg", "2.png", "2.txt", "./a/1.txt", "1.PNG", ".cls",
          "1.", "3.json", "caf\udce9.cls", "1.png/2.png")
_LABELS = (
    b"cat", b"0", b"1", b"-1", b"9" * 5000, b"", b" ", b"\xff", b"[" * 100_000,
    "caf\u00e9".encode(), b'{"label": 1e400}', b"{", b'{"cls": 1}',
    b'{"cls": ' + b"9" * 5000 + b"}", b'{"caption": "a cat"}', b'{"label": []}',
    b'{"caption": "\\ud800"}', b'{"label": null}', b'{"class": "\\ud800"}')


_SOUND_LABELS = {"cls": b"a cat", "txt": b"a cat",
                 "json": b'{"label": "a cat", "caption": "a cat"}'}


@st.composite
def _of_images(draw, beside):
  """A tar with an image and what is said of it for each key, and more."""
  file = io.BytesIO()
  parts = []
  for number in range(draw(st.integers(1, 3))):
    parts += [(f"{number}.png", images_test.SOUND["PNG"]),
              (f"{number}.{beside}", draw(st.sampled_from(
                  (_SOUND_LABELS[beside],) * 60 + _LABELS)))]
  if draw(st.integers(0, 3)) == 0:
    parts.append((draw(st.sampled_from(_PARTS)),
                  draw(st.sampled_from(_LABELS))))
  with tarfile.open(fileobj=file, mode="w") as tar:
    for name, content in parts:
      member = tarfile.TarInfo(name)
      member.size = len(content)
      tar.addfile(member, io.BytesIO(content))
  return file.getvalue()


_LABELLED = _maybe_damaged(st.sampled_from(("cls", "json")).flatmap(_of_images))
_CAPTIONED = _maybe_damaged(st.sampled_from(("txt", "json")).flatmap(
    _of_images))


class TarsTest(fuzz.FaultCase):

  @hypothesis.given(_LABELLED,
                    st.sampled_from((None, ("a cat", "a dog"))))
  def test_labelled(self, content, names):
    path = self.root / "pets-0.tar"
    path.write_bytes(content)
    found = self.read("labelled tar", lambda: labelled_tars.read(
        path, class_names=names), path.name, str(self.root), "inside")
    if found is not None:
      image_sets.check(found)
      for position in range(len(found.ids)):
        self.read("image in a tar", lambda: found.read(position),
                  found.ids[position])

  @fuzz.fewer(0.5)
  @hypothesis.given(_LABELLED)
  def test_as_a_set(self, content):
    path = self.root / "pets-0.tar"
    path.write_bytes(content)
    (self.root / "classnames.txt").write_text("a cat\na dog\n")
    self.read("labelled tar", lambda: load.images(
        path, on_bad_image="skip"), path.name, str(self.root), "inside",
              "'pets-0'")

  @hypothesis.given(_CAPTIONED)
  def test_pairs(self, content):
    path = self.root / "laion-0.tar"
    path.write_bytes(content)
    found = self.read("tar of pairs", lambda: pairs.webdataset(path),
                      path.name, "'inside'")
    if found is not None:
      pairs.check(found)

  @hypothesis.given(_maybe_damaged(_tar()))
  def test_members(self, content):
    path = self.root / "any.tar"
    path.write_bytes(content)
    with path.open("rb") as file:
      self.read("members of a tar", lambda: pairs.members(
          file, collections.Counter(), ("png",)), path.name)


if __name__ == "__main__":
  absltest.main()
