"""Tests of jaxcal.data.sources."""

import os

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from jaxcal.data import image_set as image_sets
from jaxcal.data import sources
from tests.data import files


class ImageFolderTest(files.FolderCase):

  def test_sorted_with_names_and_ids(self):
    for seed, name in enumerate(["tree_frog/b.png", "ant/z.PNG", "ant/a.jpg"]):
      self.image(name, files.pixels(seed=seed))
    image_set = sources.image_folder(self.root)
    self.assertEqual(image_set.name, self.root.name)
    self.assertEqual(image_set.class_names, ("ant", "tree frog"))
    self.assertEqual(
        image_set.ids, ("ant/a.jpg", "ant/z.PNG", "tree_frog/b.png")
    )
    np.testing.assert_array_equal(image_set.labels, [0, 0, 1])
    self.assertEqual(image_set.labels.dtype, np.int32)
    np.testing.assert_array_equal(image_set.read(1), files.pixels(seed=1))
    image_sets.check(image_set)

  def test_numbered_folders_go_by_number(self):
    for name in ("10", "9", "100", "1"):
      self.image(f"{name}/a.png")
    image_set = sources.image_folder(self.root)
    self.assertEqual(image_set.class_names, ("1", "9", "10", "100"))
    self.assertEqual(
        image_set.ids, ("1/a.png", "9/a.png", "10/a.png", "100/a.png")
    )

  def test_hidden_files_and_other_suffixes_are_left_out(self):
    for name in ("ant/a.png", "ant/._a.png", ".git/b.png"):
      self.image(name)
    self.text("ant/Thumbs.db")
    self.text("README.md")
    with self.assertLogs(level="WARNING") as log:
      image_set = sources.image_folder(self.root)
    self.assertEqual(image_set.ids, ("ant/a.png",))
    self.assertRegex(log.output[0], "ant: left out 1 files")

  def test_empty_class_stays_a_candidate(self):
    self.image("bee/a.png")
    (self.root / "ant").mkdir()
    with self.assertLogs(level="WARNING") as log:
      image_set = sources.image_folder(self.root)
    self.assertEqual(image_set.class_names, ("ant", "bee"))
    np.testing.assert_array_equal(image_set.labels, [1])
    self.assertRegex(log.output[0], "ant has no images")

  def test_names_for_the_sorted_folders(self):
    self.image("n02/a.png")
    self.image("n01/a.png")
    image_set = sources.image_folder(self.root, class_names=["tench", "shark"])
    self.assertEqual(image_set.class_names, ("tench", "shark"))
    self.assertEqual(image_set.ids, ("n01/a.png", "n02/a.png"))

  def test_names_with_spaces_and_accents_are_written_in_one_way(self):
    for name in ("big_ cat", " dog", "cafe\u0301"):
      self.image(f"{name}/a.png")
    self.assertEqual(
        sources.image_folder(self.root).class_names,
        ("dog", "big cat", "caf\u00e9"))

  def test_a_folder_whose_name_is_not_utf8(self):
    self.image("x/cat/a.png")
    self.image("x/dog/a.png")
    os.rename(os.fsencode(self.root / "x/dog"),
              os.fsencode(self.root / "x") + b"/caf\xe9")
    with self.assertRaisesRegex(
        ValueError, r"image set 'x': the name 'caf\\udce9' is not UTF-8"):
      sources.image_folder(self.root / "x")
    found = sources.image_folder(self.root / "x", class_names=("coffee", "cat"))
    self.assertEqual(found.read(0).shape, (6, 5, 3))

  def test_mapping_gives_the_label_order_and_further_candidates(self):
    self.image("n01/a.png")
    self.image("n02/a.png")
    image_set = sources.image_folder(
        self.root, class_names={"n02": "shark", "n03": "ray", "n01": "tench"}
    )
    self.assertEqual(image_set.class_names, ("shark", "ray", "tench"))
    self.assertEqual(image_set.ids, ("n02/a.png", "n01/a.png"))
    np.testing.assert_array_equal(image_set.labels, [0, 2])

  @parameterized.named_parameters(
      ("too_few", ["tench"], "1 class names for the 2 class folders"),
      ("swapped", ["bee", "ant"], "'bee' would be given to folder 'ant'"),
      ("not_all", {"ant": "ant"}, "1 folders .* no class name.*'bee'"),
  )
  def test_class_names_that_do_not_fit(self, class_names, message):
    self.image("ant/a.png")
    self.image("bee/a.png")
    with self.assertRaisesRegex(ValueError, message):
      sources.image_folder(self.root, class_names=class_names)

  def test_missing(self):
    with self.assertRaisesRegex(FileNotFoundError, "no folder .*nowhere"):
      sources.image_folder(self.root / "nowhere")

  def test_empty(self):
    with self.assertRaisesRegex(ValueError, "has no sub-folders"):
      sources.image_folder(self.root)

  def test_classes_without_images(self):
    self.text("ant/notes.txt")
    with self.assertRaisesRegex(ValueError, "1 class folders of .* no images"):
      sources.image_folder(self.root)

  def test_images_outside_the_classes(self):
    self.image("ant/a.png")
    self.image("b.png")
    with self.assertRaisesRegex(ValueError, r"b\.png lies outside any class"):
      sources.image_folder(self.root)

  def test_one_level_too_high(self):
    self.image("train/ant/a.png")
    with self.assertRaisesRegex(ValueError, "ant is a folder inside a class"):
      sources.image_folder(self.root)

  def test_text_named_jpg_is_named_when_read(self):
    self.text("ant/note.jpg", "not an image")
    image_set = sources.image_folder(self.root)
    with self.assertRaisesRegex(ValueError, r"ant.note\.jpg as an image"):
      image_set.read(0)


class CsvFileTest(files.FolderCase):

  def setUp(self):
    super().setUp()
    self.image("x/a.png", files.pixels(seed=1))
    self.image("b.png", files.pixels(seed=2))

  def test_names_in_the_order_of_the_file(self):
    path = self.text(
        "birds.csv", "label,path,who\ntree_frog,./x/a.png,me\nant,b.png,you\n"
    )
    image_set = sources.csv_file(path)
    self.assertEqual(image_set.name, "birds")
    self.assertEqual(image_set.class_names, ("ant", "tree frog"))
    self.assertEqual(image_set.ids, ("x/a.png", "b.png"))
    np.testing.assert_array_equal(image_set.labels, [1, 0])
    np.testing.assert_array_equal(image_set.read(0), files.pixels(seed=1))
    image_sets.check(image_set)

  def test_other_root_byte_order_mark_and_quotes(self):
    path = self.text(
        "lists/l.csv", '\ufeffpath,label\r\n"x/a.png","a, b"\r\nb.png,c\r\n'
    )
    image_set = sources.csv_file(path, root=self.root)
    self.assertEqual(image_set.class_names, ("a, b", "c"))
    np.testing.assert_array_equal(image_set.read(1), files.pixels(seed=2))

  def test_names_and_positions_in_given_classes(self):
    path = self.text("l.csv", "path,label\nx/a.png,2\nb.png,tree_frog\n")
    names = ["ant", "tree frog", "bee"]
    image_set = sources.csv_file(path, class_names=names)
    self.assertEqual(image_set.class_names, tuple(names))
    np.testing.assert_array_equal(image_set.labels, [2, 1])

  @parameterized.parameters(
      "tabby cat ", " tabby cat", "tabby  cat", "tabby\tcat", "tabby\u00a0cat",
      "tabby_cat")
  def test_labels_that_differ_in_spaces_are_one_class(self, other):
    path = self.text(
        "l.csv", f"path,label\nx/a.png,tabby cat\nb.png,{other}\n")
    for names in (None, ["tabby  cat"]):
      image_set = sources.csv_file(path, class_names=names)
      np.testing.assert_array_equal(image_set.labels, [0, 0])
    self.text("l.csv", "path,label\nx/a.png,caf\u00e9\nb.png,cafe\u0301\n")
    self.assertEqual(sources.csv_file(path).class_names, ("caf\u00e9",))

  def test_names_that_are_numbers_come_before_positions(self):
    path = self.text("l.csv", "path,label\nx/a.png,1\nb.png,0\n")
    image_set = sources.csv_file(path, class_names=["7", "1", "0"])
    np.testing.assert_array_equal(image_set.labels, [1, 2])

  @parameterized.named_parameters(
      ("label", "b.png,owl", r"line 3: label 'owl' is neither one of the 2 cl"),
      ("position", "b.png,2", r"line 3: label '2' .* nor a position in \[0, 2"),
      ("negative", "b.png,-1", "line 3: label '-1' is neither"),
      ("no_label", "b.png,", r"line 3: expected values for \['path', 'la"),
      ("short", "b.png", "line 3: expected values"),
      ("comma", "b,1.png,ant", "line 3: expected values"),
      ("quote", '"b.png,ant', "line 3: unexpected end of data"),
      ("repeated", "x/a.png,bee", "the id 'x/a.png' more than once"),
  )
  def test_bad_row(self, row, message):
    path = self.text("l.csv", f"path,label\nx/a.png,ant\n{row}\n")
    with self.assertRaisesRegex(ValueError, message):
      sources.csv_file(path, class_names=["ant", "bee"])

  def test_ambiguous_name(self):
    path = self.text("l.csv", "path,label\nb.png,missile\n")
    with self.assertRaisesRegex(ValueError, r"line 2: 2 classes .*\[0, 2\]"):
      sources.csv_file(path, class_names=["missile", "ant", "missile"])

  @parameterized.named_parameters(
      ("column", "path,class\nb.png,ant\n", r"line 1: .*got \['path', 'cl"),
      ("nothing", "", r"l\.csv, line 0: expected a first line"),
      ("no_rows", "path,label\n", "lists no images"),
      ("numbers", "path,label\nb.png,3\n", r"are numbers \(such as '3'\)"),
      ("case", "path,label\nb.png,Ant\nx/a.png,ant\n",
       "the labels 'Ant' and 'ant', which differ in case or Unicode form"),
      ("form", "path,label\nb.png,\ufb01re\nx/a.png,fire\n",
       "the labels 'fire' and '\ufb01re', which differ"),
      ("spaces", "path,label\nb.png, \n", "expected values for"),
  )
  def test_bad_file(self, content, message):
    path = self.text("l.csv", content)
    with self.assertRaisesRegex(ValueError, message):
      sources.csv_file(path)

  def test_not_utf8(self):
    path = self.root / "l.csv"
    path.write_bytes("path,label\nb.png,café\n".encode("latin-1"))
    with self.assertRaisesRegex(ValueError, r"l\.csv.*utf-8"):
      sources.csv_file(path)

  def test_missing(self):
    with self.assertRaisesRegex(FileNotFoundError, r"no file .*none\.csv"):
      sources.csv_file(self.root / "none.csv")
    path = self.text("l.csv", "path,label\nb.png,ant\nc.png,ant\n")
    with self.assertRaisesRegex(FileNotFoundError, r"line 3: no file .*c\.png"):
      sources.csv_file(path)
    path = self.text("l.csv", f"path,label\n{'c' * 300}.png,ant\n")
    with self.assertRaisesRegex(FileNotFoundError, "line 2: no file .*ccc"):
      sources.csv_file(path)
    with self.assertRaisesRegex(FileNotFoundError, "no folder .*nowhere"):
      sources.csv_file(path, root=self.root / "nowhere")


class ListedFilesTest(files.FolderCase):

  def setUp(self):
    super().setUp()
    self.image("x/a.png", files.pixels(seed=1))
    self.image("b.png", files.pixels(seed=2))

  def test_in_the_order_of_the_rows(self):
    image_set = sources.listed_files(
        "birds", ["ant", "bee"], [("x/a.png", 1), ("b.png", 0)], self.root
    )
    self.assertEqual(image_set.name, "birds")
    self.assertEqual(image_set.class_names, ("ant", "bee"))
    self.assertEqual(image_set.ids, ("x/a.png", "b.png"))
    np.testing.assert_array_equal(image_set.labels, [1, 0])
    np.testing.assert_array_equal(image_set.read(1), files.pixels(seed=2))

  def test_absent(self):
    rows = [("b.png", 0), ("c.png", 0), ("x", 0)]
    with self.assertRaisesRegex(
        FileNotFoundError, r"(?s)2 of the 3 images listed for 'l' .*c\.png.*x"
    ):
      sources.listed_files("l", ["ant"], rows, self.root)
    with self.assertLogs(level="WARNING") as log:
      image_set = sources.listed_files(
          "l", ["ant"], rows, self.root, partial=True
      )
    self.assertEqual(image_set.ids, ("b.png",))
    self.assertRegex(log.output[0], "l: left out 2 of 3 listed images")
    with self.assertRaisesRegex(FileNotFoundError, "2 of the 2 images"):
      sources.listed_files("l", ["ant"], rows[1:], self.root, partial=True)
    with self.assertRaisesRegex(FileNotFoundError, "no folder .*nowhere"):
      sources.listed_files("l", ["ant"], rows, self.root / "nowhere")

  def test_refuses(self):
    with self.assertRaisesRegex(ValueError, "1 labels outside"):
      sources.listed_files("l", ["ant"], [("b.png", 1)], self.root)
    with self.assertRaisesRegex(ValueError, "has no images"):
      sources.listed_files("l", ["ant"], [], self.root)


if __name__ == "__main__":
  absltest.main()
