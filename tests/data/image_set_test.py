"""Tests of jaxcal.data.image_set."""

import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from jaxcal.data import image_set as image_sets


def _image_set(**changes):
  image_set = image_sets.ImageSet(
      name="birds",
      class_names=("wren", "rook", "owl"),
      ids=("w1", "w2", "w3", "r1", "o1", "o2"),
      labels=np.array([0, 0, 0, 1, 2, 2], np.int32),
      read=lambda position: np.full((2, 3, 3), position, np.uint8),
  )
  return image_set._replace(**changes)


class CheckTest(parameterized.TestCase):

  def test_a_sound_set_passes(self):
    image_sets.check(_image_set())

  def test_class_names_may_repeat(self):
    image_sets.check(_image_set(class_names=("missile", "owl", "missile")))

  @parameterized.named_parameters(
      ("empty", dict(ids=(), labels=np.zeros(0, np.int32)), "has no images"),
      ("classes", dict(class_names=()), "has no class names"),
      ("length", dict(ids=("a", "b")), r"2 ids but labels of shape \(6,\)"),
      ("type", dict(labels=np.zeros(6)), "type float64; expected integers"),
      (
          "too_high",
          dict(labels=np.array([0, 0, 3, 7, 1, 1])),
          r"2 labels outside \[0, 3\), the first one 3 of 'w3'",
      ),
      ("negative", dict(labels=np.array([0, 0, 0, 0, 0, -1])), "-1 of 'o2'"),
      ("repeated", dict(ids=tuple("abcdea")), "the id 'a' more than once"),
      ("class_name", dict(class_names=("wren", "caf\udce9", "owl")),
       r"the name 'caf\\udce9' is not UTF-8, .* rename the folder"),
  )
  def test_refuses(self, changes, message):
    with self.assertRaisesRegex(ValueError, "'birds'.*" + message):
      image_sets.check(_image_set(**changes))


class TakeTest(parameterized.TestCase):

  def test_ids_labels_and_images_stay_together(self):
    taken = image_sets.take(_image_set(), [4, 0])
    image_sets.check(taken)
    self.assertEqual(taken.ids, ("o1", "w1"))
    np.testing.assert_array_equal(taken.labels, [2, 0])
    self.assertEqual([taken.read(i)[0, 0, 0] for i in range(2)], [4, 0])
    self.assertEqual(taken.class_names, ("wren", "rook", "owl"))

  def test_taking_from_what_was_taken(self):
    taken = image_sets.take(image_sets.take(_image_set(), [5, 3, 1]), [2, 0])
    self.assertEqual(taken.ids, ("w2", "o2"))
    self.assertEqual([taken.read(i)[0, 0, 0] for i in range(2)], [1, 5])

  @parameterized.named_parameters(
      ("none", [], "at least one position"),
      ("scalar", 3, "one dimension"),
      ("outside", [0, 6], "position 6 is outside image set 'birds' of 6"),
      ("negative", [-1], "position -1 is outside"),
      ("twice", [2, 0, 2], "position 2 is taken twice"),
  )
  def test_refuses(self, indices, message):
    with self.assertRaisesRegex(ValueError, message):
      image_sets.take(_image_set(), indices)


class JoinedTest(parameterized.TestCase):

  def test_others_come_after_the_images_and_are_of_no_class(self):
    others = _image_set(
        name="boats", class_names=("yacht",), ids=("b1", "w2"),
        labels=np.array([0, 0], np.int32), left_out={"b3": "cut off"},
        read=lambda position: np.full((2, 3, 3), 10 + position, np.uint8))
    found = image_sets.joined(_image_set(left_out={"w9": "empty"}), others)
    image_sets.check(found)
    self.assertEqual((found.name, found.class_names),
                     ("birds", ("wren", "rook", "owl")))
    # "w2" is an image of both.
    self.assertEqual(found.ids, (
        "w1", "w2", "w3", "r1", "o1", "o2", "b1", "boats/w2"))
    np.testing.assert_array_equal(found.labels, [0, 0, 0, 1, 2, 2, 0, 0])
    self.assertEqual([found.read(i)[0, 0, 0] for i in range(8)],
                     [0, 1, 2, 3, 4, 5, 10, 11])

  def test_it_does_not_tell_where_some_of_the_images_lie(self):
    path = pathlib.Path
    found = image_sets.joined(
        _image_set(path=path, holder=path, encoded=bytes),
        _image_set(ids=tuple("abcdef")))
    self.assertEqual((found.path, found.holder, found.encoded), (None,) * 3)

  def test_corruptions_of_both(self):
    one = image_sets.joined(_image_set(), _image_set(ids=tuple("abcdef")))
    self.assertIsNone(one.corruption)
    fog = {"data.corruption": "fog"}
    found = image_sets.joined(_image_set(corruption=fog), _image_set(
        ids=tuple("abcdef"), corruption=fog))
    self.assertEqual(
        found.corruption, fog | {"others.data.corruption": "fog"})

  @parameterized.parameters(
      (100, 0.5, 100), (100, 0.2, 25), (250, 0.2, 62), (3, 0.9, 27),
      (5, 0.001, 1))
  def test_how_many_make_a_share(self, num_images, share, expected):
    self.assertEqual(image_sets.num_of_share(num_images, share), expected)


class ImbalancedTest(parameterized.TestCase):

  def _set(self, *counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    # Classes by turns, so that the order of the set matters.
    labels = labels[np.argsort(np.concatenate(
        [np.arange(count) for count in counts]), kind="stable")]
    return _image_set(
        class_names=tuple(map(str, range(len(counts)))),
        ids=tuple(f"{number}" for number in range(sum(counts))), labels=labels)

  def test_frequencies_are_those_of_long_tailed_cifar(self):
    found = image_sets.imbalanced(self._set(*[500] * 10), 100)
    np.testing.assert_array_equal(
        np.bincount(found.labels),
        [int(500 * 0.01 ** (label / 9)) for label in range(10)])
    image_sets.check(found)

  def test_each_class_keeps_a_share_of_its_own_and_its_first_images(self):
    whole = self._set(40, 7, 64, 3)
    found = image_sets.imbalanced(whole, 8)
    np.testing.assert_array_equal(np.bincount(found.labels), [40, 3, 16, 1])
    self.assertEqual(list(found.ids), sorted(found.ids, key=int))
    for label, number in enumerate((40, 3, 16, 1)):
      own = lambda of, label=label: [
          one for one, its in zip(of.ids, of.labels) if its == label]
      self.assertEqual(own(found), own(whole)[:number])
    more = image_sets.imbalanced(whole, 20)
    self.assertContainsSubset(more.ids, found.ids)

  def test_no_imbalance(self):
    whole = self._set(3, 4)
    self.assertIs(image_sets.imbalanced(whole, 1.0), whole)
    one_class = image_sets.imbalanced(self._set(5), 10)
    self.assertLen(one_class.ids, 5)
    with self.assertRaisesRegex(ValueError, "a ratio of at least 1, got 0.5"):
      image_sets.imbalanced(whole, 0.5)


class LimitTest(parameterized.TestCase):

  def test_classes_take_turns(self):
    self.assertEqual(image_sets.limit(_image_set(), 3).ids, ("w1", "r1", "o1"))
    self.assertEqual(
        image_sets.limit(_image_set(), 6).ids,
        ("w1", "r1", "o1", "w2", "o2", "w3"),
    )

  def test_label_order_whatever_the_order_of_the_set(self):
    shuffled = _image_set(labels=np.array([2, 0, 1, 1, 2, 0]))
    self.assertEqual(
        image_sets.limit(shuffled, 5).ids, ("w2", "w3", "w1", "o2", "r1")
    )

  def test_longer_runs_begin_with_shorter_ones(self):
    labels = np.random.default_rng(0).integers(5, size=40)
    image_set = _image_set(
        class_names=tuple("abcde"),
        ids=tuple(str(i) for i in range(40)),
        labels=labels,
    )
    longest = image_sets.limit(image_set, 1000)
    self.assertCountEqual(longest.ids, image_set.ids)
    for num_images in (1, 7, 23, 40):
      shorter = image_sets.limit(image_set, num_images)
      self.assertEqual(shorter.ids, longest.ids[:num_images])
      counts = np.bincount(shorter.labels, minlength=5)
      # A class lags behind another only where it has no images left.
      for label in range(5):
        if counts[label] < counts.max() - 1:
          self.assertEqual(counts[label], np.sum(labels == label))

  def test_refuses_nothing(self):
    with self.assertRaisesRegex(ValueError, "at least 1 image to keep, got 0"):
      image_sets.limit(_image_set(), 0)

  def test_skipped_images_are_the_first_of_the_same_order(self):
    every = image_sets.limit(_image_set(), 6).ids
    self.assertEqual(
        image_sets.limit(_image_set(), 2, skip=3).ids, every[3:5])
    self.assertEqual(image_sets.limit(_image_set(), 9, skip=5).ids, every[5:])
    for skip in (-1, 6):
      with self.assertRaisesRegex(ValueError, f"fewer than the 6.*got {skip}"):
        image_sets.limit(_image_set(), 1, skip=skip)


class ApartTest(absltest.TestCase):

  def test_other_images_of_the_same_classes(self):
    image_sets.check_apart(
        _image_set(), _image_set(ids=tuple("abcdef")), split="train")
    # Another folder may give the same names to other images.
    image_sets.check_apart(
        _image_set(), _image_set(read=lambda position: np.zeros(
            (2, 3, 3), np.uint8) + 99), split="train")

  def test_the_same_images(self):
    other = image_sets.take(_image_set(), np.array([5, 1]))._replace(
        name="more")
    with self.assertRaisesRegex(
        ValueError, "^2 images of birds are in the split 'train' of more, too, "
        "the first one 'w2'; choose another split"):
      image_sets.check_apart(_image_set(), other, split="train")

  def test_corrupted_images_are_still_the_same(self):
    target = _image_set()
    corrupted = target._replace(
        corruption={"data.corruption": "fog"},
        read=lambda position: 255 - target.read(position))
    self.assertEqual(
        image_sets.shared_ids(corrupted, target), list(target.ids))
    with self.assertRaisesRegex(ValueError, "images of birds are in the spl"):
      image_sets.check_apart(corrupted, target, split="train")

  def test_files_of_one_name_are_compared_by_what_they_hold(self):
    """All of them: that the first ones differ does not say it of the rest."""
    root = pathlib.Path(self.create_tempdir().full_path)

    def files(folder, contents):
      (root / folder).mkdir()
      paths = [root / folder / f"{i}.png" for i in range(len(contents))]
      for path, content in zip(paths, contents):
        path.write_bytes(content)
      return image_sets.ImageSet(
          folder, ("a",), tuple(path.name for path in paths),
          np.zeros(len(paths), np.int32), read=None, path=lambda i: paths[i])

    target = files("target", [b"%03d" % i for i in range(20)])
    apart = files("apart", [b"%03d" % (99 - i) for i in range(20)])
    image_sets.check_apart(target, apart, split="train")
    longer = files("longer", [b"%03d." % i for i in range(20)])
    self.assertEqual(image_sets.shared_ids(target, longer), [])
    one = files("one", [b"%03d" % (i + (i != 17)) for i in range(20)])
    self.assertEqual(image_sets.shared_ids(target, one), ["17.png"])
    self.assertEqual(image_sets.shared_ids(target, target), list(target.ids))
    with self.assertRaisesRegex(ValueError, "^1 images of target .*17.png"):
      image_sets.check_apart(target, one, split="train")

  def test_other_classes(self):
    other = _image_set(class_names=("wren", "rook", "cat"), name="more")
    with self.assertRaisesRegex(
        ValueError, "more has other classes than birds; both must have"):
      image_sets.check_apart(_image_set(), other, split="train")


if __name__ == "__main__":
  absltest.main()
