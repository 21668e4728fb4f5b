"""Tests of jaxcal.data.pairs and of the pairs that jaxcal.data.tfds reads."""

import concurrent.futures
import hashlib
import io
import json
import pathlib
import tarfile

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from PIL import Image

from jaxcal.data import contents
from jaxcal.data import image_set as image_sets
from jaxcal.data import pairs
from jaxcal.data import pipeline
from jaxcal.data import sources
from jaxcal.data import tfds
from jaxcal.storage import identity
from tests.data import miniatures


def _png(seed):
  content = io.BytesIO()
  Image.fromarray(miniatures.pixels(seed)).save(content, "PNG")
  return content.getvalue()


def _write_tar(path, members, tar_format=tarfile.PAX_FORMAT):
  """Writes (name, content) members; returns where each one's data start."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  with tarfile.open(path, "w", format=tar_format) as tar:
    for name, content in members:
      content = content.encode() if isinstance(content, str) else content
      info = tarfile.TarInfo(name)
      info.size = len(content)
      tar.addfile(info, io.BytesIO(content))
  with tarfile.open(path) as tar:
    return {member.name: member.offset_data for member in tar}


def _pair(number, suffix="jpg"):
  """The three members that img2dataset writes for a pair."""
  key = f"{number:09}"
  about = {"caption": "of the JSON file", "key": key, "status": "success"}
  return [(f"{key}.{suffix}", _png(number)), (f"{key}.txt", f"pair {number}"),
          (f"{key}.json", json.dumps(about))]


def _shard(path, numbers, **options):
  return _write_tar(path, sum(map(_pair, numbers), []), **options)


class WebdatasetTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.create_tempdir("web").full_path)

  @parameterized.parameters(
      tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
  def test_pairs_in_the_order_of_sorted_tars(self, tar_format):
    _shard(self.root / "00001.tar", [11, 10], tar_format=tar_format)
    _shard(self.root / "00000.tar", [2, 3], tar_format=tar_format)
    (self.root / "00000.parquet").write_bytes(b"left alone")
    pair_set = pairs.webdataset(self.root)
    self.assertEqual(pair_set.name, "web")
    self.assertEqual(pair_set.ids, (
        "00000.tar/000000002", "00000.tar/000000003",
        "00001.tar/000000011", "00001.tar/000000010"))
    self.assertEqual(
        pair_set.captions, ("pair 2", "pair 3", "pair 11", "pair 10"))
    self.assertEqual(pair_set.skipped, {})
    for position, number in enumerate((2, 3, 11, 10)):
      image = pair_set.read(position)
      self.assertEqual(image.dtype, np.uint8)
      np.testing.assert_array_equal(image, miniatures.pixels(number))

  def test_many_threads_read_what_one_reads(self):
    for shard in range(3):
      _shard(self.root / f"{shard}.tar", range(10 * shard, 10 * shard + 10))
    pair_set = pairs.webdataset(str(self.root / "{0..2}.tar"))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
      images = list(pool.map(pair_set.read, range(30)))
    for number, image in enumerate(images):
      np.testing.assert_array_equal(image, miniatures.pixels(number))

  def test_what_cannot_be_used_is_left_out_and_counted(self):
    _write_tar(self.root / "0.tar", [
        *_pair(0, "webp"),
        ("only_text.txt", "no image here"),
        ("only_image.png", _png(1)),
        ("empty.jpg", _png(2)), ("empty.txt", " \n"),
        ("latin.jpg", _png(3)), ("latin.txt", "caf\xe9".encode("latin-1")),
        ("half.jpg", _png(4)), ("half.json", '{"caption": "\\ud83d"}'),
        ("null.jpg", _png(5)), ("null.json", '{"caption": null}'),
        ("list.jpg", _png(6)), ("list.json", '["caption"]'),
        ("broken.jpg", _png(7)), ("broken.json", '{"caption'),
        ("bytes.jpg", _png(8)), ("bytes.json", b'{"caption": "\xff"}'),
        ("deep.jpg", _png(9)), ("deep.json", "[" * 100_000),
        ("README", "left alone"), ("x.cls", "7"), ("._y.jpg", b"of a Mac"),
    ])
    pair_set = pairs.webdataset(self.root / "0.tar")
    self.assertEqual(pair_set.captions, ("pair 0",))
    self.assertEqual(pair_set.skipped, {
        pairs.NO_IMAGE: 1, pairs.NO_CAPTION: 6, pairs.EMPTY_CAPTION: 1,
        pairs.UNDECODABLE_CAPTION: 2})

  def test_where_captions_and_images_are_looked_for(self):
    _write_tar(self.root / "0.tar", [
        ("./b/x.JSON", '{"caption": "  gr\u00fcn \\u2603 "}'),
        ("./b/x.PNG", _png(0)),
        ("b/y.txt", "both"), ("a/y.txt", "of a"), ("b/y.png", _png(1)),
        ("b/y.jpg", _png(2)), ("a/y.jpeg", _png(3)),
    ])
    pair_set = pairs.webdataset(self.root)
    self.assertEqual(pair_set.ids, ("0.tar/b/x", "0.tar/b/y", "0.tar/a/y"))
    self.assertEqual(pair_set.captions, ("gr\u00fcn \u2603", "both", "of a"))
    for position, seed in enumerate((0, 2, 3)):
      np.testing.assert_array_equal(
          pair_set.read(position), miniatures.pixels(seed))

  def test_cut_off_tars_are_used_up_to_the_break(self):
    path = self.root / "0.tar"
    starts = _shard(path, range(3))
    whole = path.read_bytes()
    no_caption = {pairs.NO_CAPTION: 1}
    for keep, found, counts in (
        (starts["000000002.jpg"] + 20, 2, {}),  # In the middle of an image,
        (starts["000000002.jpg"] - 1, 2, {}),  # of a header,
        (starts["000000002.jpg"] - 512, 2, {}),  # and before one.
        (starts["000000002.txt"] - 3, 2, no_caption),
        (starts["000000002.txt"] + 3, 2, no_caption),
        (starts["000000002.json"], 3, {}),
    ):
      path.write_bytes(whole[:keep])
      with self.assertLogs(level="WARNING") as logs:
        pair_set = pairs.webdataset(path)
      self.assertRegex(logs.output[0], "0.tar is damaged")
      self.assertLen(pair_set.ids, found)
      self.assertEqual(
          pair_set.skipped, counts | {pairs.DAMAGED_TAR: 1}, keep)
      for position in range(found):
        np.testing.assert_array_equal(
            pair_set.read(position), miniatures.pixels(position))
    for keep in (0, 100, 600):
      path.write_bytes(whole[:keep])
      with self.assertRaisesRegex(ValueError, "no pairs.* damaged tar: 1"):
        pairs.webdataset(path)

  def test_damage_within_a_tar(self):
    path = self.root / "0.tar"
    starts = _shard(path, range(3))
    content = bytearray(path.read_bytes())
    header = starts["000000001.jpg"] - 512
    content[header:header + 512] = bytes(range(256)) * 2
    path.write_bytes(content)
    pair_set = pairs.webdataset(path)
    self.assertEqual(pair_set.ids, ("0.tar/000000000",))
    self.assertEqual(pair_set.skipped, {pairs.DAMAGED_TAR: 1})
    # A length of -512 leads back to the same header: reading must still end.
    content[header:] = path.read_bytes()[:512]
    content[header + 124:header + 136] = b"\xff" * 10 + b"\xfe\x00"
    whole = tarfile.calc_chksums(bytes(content[header:header + 512]))[0]
    content[header + 148:header + 156] = b"%06o\0 " % whole
    path.write_bytes(content)
    self.assertEqual(pairs.webdataset(path).skipped, {pairs.DAMAGED_TAR: 1})

  def test_other_files_called_tar(self):
    _shard(self.root / "0.tar", [0])
    with tarfile.open(self.root / "1.tar", "w:gz") as tar:
      tar.add(self.root / "0.tar", "000000009.jpg")
    (self.root / "2.tar").write_text("<html>404</html>" * 100)
    (self.root / "3.tar").touch()
    _write_tar(self.root / "4.tar", [])
    pair_set = pairs.webdataset(self.root)
    self.assertLen(pair_set.ids, 1)
    self.assertEqual(pair_set.skipped, {pairs.DAMAGED_TAR: 3})

  def test_damaged_images_are_masked_when_read(self):
    _write_tar(self.root / "0.tar", [
        *_pair(0), ("1.jpg", _png(1)[:40]), ("1.txt", "cut off"),
        ("2.jpg", b""), ("2.txt", "empty"), *_pair(3)])
    pair_set = pairs.webdataset(self.root)
    self.assertLen(pair_set.ids, 4)
    with self.assertRaisesRegex(ValueError, "cannot read 0.tar/1 as an image"):
      pair_set.read(1)
    reports = []
    batch, = pipeline.batches(
        pair_set, [range(4)], seed=0, batch_size=5, num_threads=2,
        on_unusable=lambda position, reason: reports.append(position))
    self.assertEqual(reports, [1, 2])
    np.testing.assert_array_equal(
        batch.mask, [True, False, False, True, False])
    np.testing.assert_array_equal(
        batch.canvases[3, :5, :4], miniatures.pixels(3))

  def test_no_further_tars_than_needed(self):
    for shard in range(4):
      _shard(self.root / f"{shard}.tar", [2 * shard, 2 * shard + 1])
    seen = []
    pair_set = pairs.webdataset(
        self.root, max_pairs=3, progress=lambda *it: seen.append(it))
    self.assertEqual(seen, [(1, 4), (2, 4)])
    everything = pairs.webdataset(self.root)
    self.assertEqual(pair_set.ids, everything.ids[:3])
    self.assertEqual(pair_set.captions, everything.captions[:3])
    np.testing.assert_array_equal(pair_set.read(2), miniatures.pixels(2))
    with self.assertRaisesRegex(ValueError, "max_pairs of at least 1, got 0"):
      pairs.webdataset(self.root, max_pairs=0)

  def test_which_tars_are_meant(self):
    names = ["a/000.tar", "a/001.tar", "a/010.tar", "b/000.tar", "b/8.tar",
             "b/9.tar", "b/10.tar", "odd{1,2}/[x].tar"]
    for name in names:
      path = self.root / name
      path.parent.mkdir(exist_ok=True)
      path.touch()
    (self.root / "a/000.json").touch()

    def found(*patterns):
      paths = pairs.tar_paths([self.root / pattern for pattern in patterns])
      return [path.relative_to(self.root).as_posix() for path in paths]

    self.assertEqual(found("a"), names[:3])
    self.assertEqual(found("a/*", "a"), names[:3])
    self.assertEqual(found("a/{000..001}.tar"), names[:2])
    self.assertEqual(found("{b,a}/000.tar"), [names[0], names[3]])
    self.assertEqual(found("a/0{0,1}{0,0}.tar"), [names[0], names[2]])
    self.assertEqual(found("b/{8..10}.tar"), [names[6], names[4], names[5]])
    self.assertEqual(found("a/0?0.tar"), [names[0], names[2]])
    self.assertEqual(found("b/10.tar", "a/001.tar"), [names[1], names[6]])
    self.assertEqual(found(names[-1]), names[-1:])
    self.assertEqual(found("odd{1,2}"), names[-1:])
    self.assertEqual(found("**"), sorted(names))
    self.assertEqual(
        pairs.tar_paths(str(self.root / "a/000.tar")),
        [self.root / "a/000.tar"])
    for pattern, missing in (("c", "c"), ("c/*.tar", r"c/\*"),
                             ("a/{000..002}.tar", "a/002"),
                             ("a/{9..8}.tar", r"a/\{9\.\.8\}")):
      with self.assertRaisesRegex(
          FileNotFoundError, f"no tar matches .*{missing}"):
        found("a", pattern)
    with self.assertRaisesRegex(ValueError, "at least one tar"):
      pairs.tar_paths([])

  def test_same_names_in_several_folders(self):
    for number, folder in enumerate(("x/a", "x/b")):
      _shard(self.root / folder / "0.tar", [number])
    pair_set = pairs.webdataset(str(self.root / "x/{a,b}/0.tar"))
    self.assertEqual(pair_set.name, "x")
    self.assertEqual(
        pair_set.ids, ("a/0.tar/000000000", "b/0.tar/000000001"))
    np.testing.assert_array_equal(pair_set.read(1), miniatures.pixels(1))

  def test_refuses_the_same_file_twice(self):
    _write_tar(self.root / "0.tar", _pair(4) + _pair(4))
    with self.assertRaisesRegex(
        ValueError, "0.tar has '000000004.jpg' twice"):
      pairs.webdataset(self.root)

  def test_names_that_are_no_utf_8(self):
    _write_tar(self.root / "0.tar", [
        ("\udcff.jpg", _png(0)), ("\udcff.txt", "snow")],
        tar_format=tarfile.GNU_FORMAT)
    pair_set = pairs.webdataset(self.root)
    self.assertEqual(pair_set.ids, ("0.tar/\\xff",))
    np.testing.assert_array_equal(pair_set.read(0), miniatures.pixels(0))


class ContentsTest(parameterized.TestCase):
  """Replaced images are noticed, wherever they lie; others do not count."""

  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.create_tempdir("web").full_path)

  def _contents(self, pair_set):
    return contents.identity_of_pairs(pair_set)["pairs.contents"]

  def test_digests_are_those_of_the_images_alone(self):
    _shard(self.root / "0.tar", [0, 1])
    files = [_png(0), _png(1)]
    for number, content in enumerate(files):
      (self.root / f"{number}.png").write_bytes(content)
    (self.root / "list.csv").write_text("path,caption\n0.png,a\n1.png,b\n")
    digests = np.stack([
        np.frombuffer(hashlib.sha256(content).digest(), np.uint8)
        for content in files])
    expected = identity.of_array(digests)
    self.assertEqual(self._contents(pairs.webdataset(self.root)), expected)
    self.assertEqual(
        self._contents(pairs.csv_file(self.root / "list.csv")), expected)
    # Captions, and pairs that are not asked for, are not in it.
    _shard(self.root / "0.tar", [0, 1, 2])
    self.assertEqual(self._contents(
        pairs.webdataset(self.root, max_pairs=2)), expected)

  def test_a_byte_of_an_image_in_a_tar(self):
    places = _shard(self.root / "0.tar", [0, 1])
    memory = self.root / "memory.npz"
    find = lambda: contents.identity_of_pairs(
        pairs.webdataset(self.root), memory=memory)
    before = find()
    self.assertEqual(find(), before)
    content = bytearray((self.root / "0.tar").read_bytes())
    content[places["000000001.jpg"] + 60] ^= 1
    (self.root / "0.tar").write_bytes(content)
    self.assertEqual([name for name, value in find().items()
                      if value != before[name]], ["pairs.contents"])

  def test_labelled_joined_and_shortened_sets(self):
    for name in "abc":
      for number in range(2):
        path = self.root / name / "owl" / f"{name}{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_png(ord(name) + number))
    one, two, three = (pairs.labelled(
        sources.image_folder(self.root / name), "{}") for name in "abc")
    joined = pairs.join([one, two])
    self.assertEqual(joined.place(3).path, self.root / "b/owl/b1.png")
    before = self._contents(joined)
    self.assertNotEqual(self._contents(pairs.join([one, three])), before)
    self.assertEqual(
        self._contents(pairs.limit(joined, 2)), self._contents(one))
    # Where a set has no files, those of the others tell nothing.
    self.assertIsNone(
        self._contents(pairs.join([one, two._replace(place=None)])))


class CsvFileTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.create_tempdir().full_path)
    miniatures.images(self.root, ["a.png", "sub/b.png"])

  def _write(self, text):
    path = self.root / "birds.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path

  def test_pairs_as_listed(self):
    pair_set = pairs.csv_file(self._write(
        "source,caption,path\n"
        'web,"a wren, singing ",sub/b.png\nown,une gr\u00e8be,./a.png\n'))
    self.assertEqual(pair_set.name, "birds")
    self.assertEqual(pair_set.ids, ("sub/b.png", "a.png"))
    self.assertEqual(pair_set.captions, ("a wren, singing", "une gr\u00e8be"))
    self.assertEqual(pair_set.skipped, {})
    np.testing.assert_array_equal(pair_set.read(0), miniatures.pixels(1))
    np.testing.assert_array_equal(pair_set.read(1), miniatures.pixels(0))

  @parameterized.named_parameters(
      ("column", "path,label\na.png,x\n", "line 1: .*'path' and 'caption'"),
      ("nothing", "", "line 0: .*'path' and 'caption'"),
      ("comma", "path,caption\na.png,red, blue\n", r"line 2: .*\['red|line 2"),
      ("short", "path,caption\na.png,x\nsub/b.png\n", "line 3: .*a caption"),
      ("blank", "path,caption\na.png,  \n", "line 2: .*a caption"),
      ("no_path", "path,caption\n,x\n", "line 2: expected a path"),
      ("twice", "path,caption\na.png,x\n./a.png,y\n",
       "line 3: a.png is listed before"),
      ("latin", b"path,caption\na.png,caf\xe9\n", "birds.csv, line .*utf-8"),
      ("quote", 'path,caption\na.png,"x\n', "line 2: .*"),
      ("empty", "path,caption\n", "lists no pairs"),
  )
  def test_refuses(self, text, message):
    with self.assertRaisesRegex(ValueError, message):
      pairs.csv_file(self._write(text))

  def test_missing_files(self):
    with self.assertRaisesRegex(
        FileNotFoundError, "birds.csv, line 3: no file .*c.png"):
      pairs.csv_file(self._write("path,caption\na.png,x\nc.png,y\n"))
    with self.assertRaisesRegex(FileNotFoundError, "line 2: no file .*ccc"):
      pairs.csv_file(self._write(f"path,caption\n{'c' * 300}.png,x\n"))
    with self.assertRaisesRegex(FileNotFoundError, "no file .*none.csv"):
      pairs.csv_file(self.root / "none.csv")


class LabelledTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.image_set = image_sets.ImageSet(
        "birds", ("wren", "barn_owl"), tuple("abcde"),
        np.array([0, 1, 1, 0, 1], np.int32), miniatures.pixels)

  def test_one_template(self):
    pair_set = pairs.labelled(self.image_set, "a photo of a {}.")
    wren, owl = "a photo of a wren.", "a photo of a barn owl."
    self.assertEqual(pair_set.captions, (wren, owl, owl, wren, owl))
    self.assertEqual(pair_set.ids, self.image_set.ids)
    self.assertEqual(pair_set.name, "birds")
    np.testing.assert_array_equal(pair_set.read(3), miniatures.pixels(3))

  def test_several_templates_go_round(self):
    pair_set = pairs.labelled(self.image_set, ["one {}", "{}!"])
    self.assertEqual(pair_set.captions, (
        "one wren", "barn owl!", "one barn owl", "wren!", "one barn owl"))

  @parameterized.parameters(
      ([], "at least one template"), ("a photo", "exactly once, got 'a photo'"),
      (["{}", "{} {}"], "exactly once, got '{} {}'"))
  def test_refuses(self, templates, message):
    with self.assertRaisesRegex(ValueError, message):
      pairs.labelled(self.image_set, templates)


class PairSetTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.pair_set = pairs.PairSet(
        "web", tuple("abc"), ("one", "two", "three"), miniatures.pixels,
        {pairs.NO_IMAGE: 2})

  def test_limit(self):
    first = pairs.limit(self.pair_set, 2)
    self.assertEqual(first.ids, ("a", "b"))
    self.assertEqual(first.captions, ("one", "two"))
    self.assertEqual(first.skipped, self.pair_set.skipped)
    self.assertEqual(pairs.limit(self.pair_set, 9), self.pair_set)
    with self.assertRaisesRegex(ValueError, "at least 1 pair to keep, got 0"):
      pairs.limit(self.pair_set, 0)

  def test_identity_knows_ids_captions_and_order(self):
    ids, captions = self.pair_set.ids, self.pair_set.captions
    others = [
        self.pair_set,
        pairs.limit(self.pair_set, 2),
        self.pair_set._replace(ids=("a", "b", "d")),
        self.pair_set._replace(captions=("one", "two", "four")),
        self.pair_set._replace(ids=ids[::-1], captions=captions[::-1]),
        self.pair_set._replace(captions=captions[::-1]),
        # Where an id ends and its caption begins counts.
        self.pair_set._replace(ids=("a\", \"", "b", "c")),
        self.pair_set._replace(ids=("ao", "b", "c"),
                               captions=("ne", "two", "three")),
    ]
    found = [tuple(contents.identity_of_pairs(one).items()) for one in others]
    self.assertLen(set(found), len(found))
    same = self.pair_set._replace(name="x", read=print, skipped={})
    self.assertEqual(contents.identity_of_pairs(same), dict(found[0]))
    self.assertIsNone(dict(found[0])["pairs.contents"])

  @parameterized.parameters(
      (dict(ids=(), captions=()), "'web' has no pairs.*: no image: 2"),
      (dict(ids=(), captions=(), skipped={}), "left out: none"),
      (dict(ids=tuple("aba")), "has the id 'a' 2 times"),
      (dict(captions=("x",)), "3 ids but 1 captions"),
      (dict(captions=("x", " ", "y")), "an empty caption for 'b'"),
  )
  def test_check(self, changes, message):
    pairs.check(self.pair_set)
    with self.assertRaisesRegex(ValueError, message):
      pairs.check(self.pair_set._replace(**changes))

  def test_join_puts_one_set_after_the_other(self):
    one, two = (pairs.PairSet(
        name, tuple(f"{name}/{i}" for i in range(count)),
        tuple(f"caption {name} {i}" for i in range(count)),
        lambda position, name=name: (name, position), {"no image": count})
                for name, count in (("a", 2), ("b", 3)))
    joined = pairs.join([one, two])
    self.assertEqual(joined.name, "a+b")
    self.assertEqual(joined.ids, one.ids + two.ids)
    self.assertEqual(joined.captions, one.captions + two.captions)
    self.assertEqual([joined.read(i) for i in range(5)],
                     [("a", 0), ("a", 1), ("b", 0), ("b", 1), ("b", 2)])
    self.assertEqual(joined.skipped, {"no image": 5})
    with self.assertRaisesRegex(ValueError, "'a/0' 2 times"):
      pairs.join([one, one])
    with self.assertRaisesRegex(ValueError, "at least one set"):
      pairs.join([])


class PreparedTest(parameterized.TestCase):
  """Sets prepared by tensorflow-datasets, without TensorFlow."""

  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.create_tempdir().full_path)

  def _prepare(self, name, rows, captions, **options):
    miniatures.prepare_captions(
        self.root, name, rows, captions=captions, **options)

  def test_first_of_several_captions(self):
    rows = [(f"{n}.jpg", [{"id": n, "text": f"first {n}"},
                          {"id": n + 10, "text": "second"}],
             miniatures.pixels(n)) for n in range(4)]
    rows.append(("none.jpg", [], miniatures.pixels(9)))
    self._prepare("coco_captions/2014", rows, "captions")
    pair_set = tfds.read_pairs(
        self.root, "coco_captions/2014", split="train")
    self.assertEqual(pair_set.name, "coco_captions/2014")
    self.assertCountEqual(pair_set.ids, [f"{n}.jpg" for n in range(4)])
    self.assertEqual(pair_set.skipped, {pairs.NO_CAPTION: 1})
    for position, (file, caption) in enumerate(
        zip(pair_set.ids, pair_set.captions)):
      self.assertEqual(caption, f"first {file[0]}")
      np.testing.assert_array_equal(
          pair_set.read(position), miniatures.pixels(int(file[0])))
    again = tfds.read_pairs(self.root, "coco_captions/2014", split="train")
    self.assertEqual(contents.identity_of_pairs(pair_set),
                     contents.identity_of_pairs(again))

  @parameterized.parameters("caption", "text")
  def test_without_file_names(self, feature):
    texts = [f"text {n}" for n in range(3)] + [" "]
    wrapped = [[text] if feature == "text" else text for text in texts]
    rows = [(None, text, miniatures.pixels(n))
            for n, text in enumerate(wrapped)]
    self._prepare("laion", rows, feature, key=None)
    pair_set = tfds.read_pairs(self.root, "laion", split="train")
    self.assertEqual(pair_set.skipped, {pairs.EMPTY_CAPTION: 1})
    self.assertLen(pair_set.ids, 3)
    for position, (name, caption) in enumerate(
        zip(pair_set.ids, pair_set.captions)):
      self.assertRegex(name, r"^train/00000\d$")
      np.testing.assert_array_equal(
          pair_set.read(position), miniatures.pixels(int(caption[-1])))

  def test_repeated_file_names_are_no_ids(self):
    rows = [("same.jpg", f"text {n}", miniatures.pixels(n)) for n in range(2)]
    self._prepare("twins", rows, "caption")
    pair_set = tfds.read_pairs(self.root, "twins", split="train")
    self.assertEqual(pair_set.ids, ("train/000000", "train/000001"))

  def test_refuses(self):
    miniatures.prepare(
        self.root, "dots", {"train": [("x", 0, miniatures.pixels(0))]},
        classes=["a"])
    with self.assertRaisesRegex(
        ValueError, "expected image and one of caption, captions, text"):
      tfds.read_pairs(self.root, "dots", split="train")
    self._prepare("empty", [("x", "", miniatures.pixels(0))], "caption")
    with self.assertRaisesRegex(ValueError, "'empty' .* empty caption: 1"):
      tfds.read_pairs(self.root, "empty", split="train")
    with self.assertRaisesRegex(FileNotFoundError, "no prepared data set"):
      tfds.read_pairs(self.root, "none", split="train")


if __name__ == "__main__":
  absltest.main()
