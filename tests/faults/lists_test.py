"""Lists of images and files of class names, broken in many ways."""

import json

from absl.testing import absltest
import hypothesis
from hypothesis import strategies as st
import numpy as np
from PIL import Image

from jaxcal.data import aircraft
from jaxcal.data import catalogue
from jaxcal.data import check
from jaxcal.data import class_names
from jaxcal.data import coop
from jaxcal.data import image_set as image_sets
from jaxcal.data import layouts
from jaxcal.data import pairs
from jaxcal.data import sources
from jaxcal.data import text_lists
from tests.faults import fuzz

_IMAGES = ("cat/1.png", "cat/2.png", "dog/1.png")
_SPLIT = {
    "train": [["cat/1.png", 0, "cat"]], "val": [["cat/2.png", 0, "cat"]],
    "test": [["dog/1.png", 1, "dog"], ["cat/1.png", 0, "cat"]]}
_CSV = b'path,label\ncat/1.png,cat\n"cat/2.png",cat\r\ndog/1.png,1\n'
_TEXT = b"cat/1.png 0\ncat/2.png 0\ndog/1.png 1\n"
_PAIRS = b'path,caption\ncat/1.png,a cat\n"dog/1.png","a dog, asleep"\n'
_NAMES = "cat\ncaf\u00e9\n".encode()
_FOLDERS = b"cat\ta cat\ndog\ta dog\n"
_VARIANTS = b"707-320\n727-200\n"
_OF_VARIANTS = b"1 707-320\n2 727-200\n"
# What is put in the place of a word of a list.
_WORDS = (
    "", " ", "..", "../x", "/", "/x", "\0", "\ud800", "x" * 5000, "9" * 5000,
    "9" * 9, "-1", "1.0", "nan", "\u0661", "\u00b2", '"', "'", ",", "\t", "\n",
    "\r", "\u2028", "\x1c", "\ufeff", "cat", "Cat", " cat", "cat\u200b",
    "cat/../cat/1.png", "cat//1.png", "./cat/1.png", "cat", "dog/1.png")


@st.composite
def _broken(draw, content):
  """A text with other words or lines, or with damaged bytes."""
  if draw(st.booleans()):
    return draw(fuzz.damaged(content))
  text = content.decode()
  words = [word for word in text.replace("\n", ",").replace(
      "\t", ",").replace(" ", ",").split(",") if word]
  text = text.replace(draw(st.sampled_from(words)), draw(st.one_of(
      st.sampled_from(_WORDS), st.text(max_size=9))),
                      draw(st.integers(1, 2)))
  if draw(st.booleans()):
    text = draw(st.sampled_from((
        text + text, "\n" + text, text + "\n\n", text.replace(",", ";"),
        text.replace(",", ",,"), text.partition("\n")[0],
        text.partition("\n")[2], text.replace("\n", "\r"))))
  encoding = draw(st.sampled_from(
      ("utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32", "latin-1")))
  return text.encode(encoding, draw(st.sampled_from(
      ("replace", "surrogatepass" if "utf" in encoding else "replace"))))


class ListsTest(fuzz.FaultCase):

  def setUp(self):
    super().setUp()
    for name in _IMAGES:
      path = self.root / name
      path.parent.mkdir(exist_ok=True)
      Image.fromarray(np.full((4, 5, 3), 7, np.uint8)).save(path)

  def _check(self, what, reader, name, content):
    """One file, which lies beside sound images."""
    path = self.root / name
    path.write_bytes(content)
    # A set is called like its file.
    found = self.read(what, lambda: reader(path), name, repr(path.stem))
    if isinstance(found, image_sets.ImageSet):
      image_sets.check(found)
    return found

  @hypothesis.given(fuzz.damaged_json(_SPLIT))
  def test_split_files(self, content):
    self._check("split file", lambda path: coop.read(path, self.root),
                "split_zhou_Pets.json", content)

  @hypothesis.given(fuzz.damaged_json(_SPLIT))
  def test_split_files_that_may_lack_images(self, content):
    self._check(
        "split file", lambda path: coop.read(path, self.root, partial=True),
        "split_zhou_Pets.json", content)

  @hypothesis.given(_broken(_CSV))
  def test_csv(self, content):
    for names in (None, ("cat", "dog")):
      self._check("list, .csv", lambda path: sources.csv_file(
          path, class_names=names), "pets.csv", content)

  @hypothesis.given(_broken(_TEXT))
  def test_text(self, content):
    for names in (None, ("cat", "dog")):
      self._check("list, .txt", lambda path: text_lists.read(
          path, class_names=names), "pets.txt", content)

  @hypothesis.given(_broken(_PAIRS))
  def test_pairs(self, content):
    found = self._check("list of pairs", pairs.csv_file, "pets.csv", content)
    if found is not None:
      pairs.check(found)

  @hypothesis.given(st.one_of(_broken(_NAMES), _broken(_FOLDERS)))
  def test_class_names(self, content):
    self._check("class names", class_names.read, "names.txt", content)

  @hypothesis.given(st.one_of(_broken(_NAMES), _broken(_FOLDERS)))
  def test_class_names_of_a_folder(self, content):
    (self.root / "pets").mkdir(exist_ok=True)
    for name in ("cat", "dog"):
      if (self.root / name).exists():
        (self.root / name).rename(self.root / "pets" / name)
    (self.root / "names.txt").write_bytes(content)
    self.read("class names", lambda: layouts.read(
        str(self.root / "pets"), names_file=self.root / "names.txt"),
              "names.txt", "pets")

  @hypothesis.given(_broken(_VARIANTS), _broken(_OF_VARIANTS), st.booleans())
  def test_aircraft(self, names, rows, first):
    (self.root / "images").mkdir(exist_ok=True)
    for number in (1, 2):
      (self.root / f"images/{number}.jpg").touch()
    (self.root / "variants.txt").write_bytes(names if first else _VARIANTS)
    (self.root / "images_variant_test.txt").write_bytes(
        _OF_VARIANTS if first else rows)
    self.read("lists of aircraft", lambda: aircraft.read(
        self.root, partial=True), "variants.txt", "images_variant_test")

  @hypothesis.given(fuzz.damaged_json(_SPLIT))
  def test_what_is_found_in_a_split_file(self, content):
    """A check tells all that is wrong, and ends with no error."""
    folder = self.root / "eurosat"
    folder.mkdir(exist_ok=True)
    if (self.root / "cat").exists():
      (folder / "2750").mkdir()
      for name in ("cat", "dog"):
        (self.root / name).rename(folder / "2750" / name)
    (folder / "split_zhou_EuroSAT.json").write_bytes(content)
    found = self.read("check of a benchmark set", lambda: check.benchmark(
        "eurosat", self.root), "eurosat")
    self.assertNotEmpty(found.findings)
    self.read("benchmark set", lambda: catalogue.load("eurosat", self.root),
              "EuroSAT", "eurosat")

  @hypothesis.given(_broken(_CSV))
  def test_what_is_found_in_a_csv(self, content):
    (self.root / "pets.csv").write_bytes(content)
    found = self.read("check of a list", lambda: check.own_path(
        str(self.root / "pets.csv")), "pets.csv")
    self.assertIsNotNone(found)

  def test_what_is_sound(self):
    for reader, name, content in (
        (lambda path: coop.read(path, self.root), "split.json",
         json.dumps(_SPLIT).encode()),
        (sources.csv_file, "pets.csv", _CSV.replace(b"1\n", b"dog\n")),
        (text_lists.read, "pets.txt", _TEXT), (pairs.csv_file, "p.csv", _PAIRS),
        (class_names.read, "names.txt", _NAMES)):
      self.assertIsNotNone(self._check("sound", reader, name, content))


if __name__ == "__main__":
  absltest.main()
