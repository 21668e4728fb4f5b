"""Shots, halves and summaries against the released sampler's own draws."""

import math

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np

from jaxcal.data import image_set
from jaxcal.testbed import sets
from jaxcal.tuning import protocol
from tests import shared


def _oracle(name="fewshot_oracle"):
  return shared.arrays(f"oracles/few_shot/{name}.npz")


def _set(labels, class_names, name="toy"):
  ids = tuple(f"{name}/{i}" for i in range(len(labels)))
  return image_set.ImageSet(
      name, tuple(class_names), ids,
      np.array(labels, np.int32), lambda i: np.full((1, 1, 3), i, np.uint8))


class ShotsTest(parameterized.TestCase):

  @parameterized.product(seed=(1, 2, 3), num_shots=(2, 4, 16))
  def test_draws_of_the_released_sampler(self, seed, num_shots):
    oracle = _oracle()
    labels = {split: oracle[f"sampling/{split}_labels"]
              for split in ("train", "val", "test")}
    shots = protocol.draw_shots(
        labels["train"], labels["val"], num_shots=num_shots, num_classes=7,
        seed=seed, allow_fewer=True)
    halves = protocol.halves(labels["train"][shots.train])
    for split, drawn in zip(("train", "val"), shots):
      stem = f"sampling/seed{seed}_shots{num_shots}"
      np.testing.assert_array_equal(drawn, oracle[f"{stem}/{split}"])
      for half, classes in zip(("base", "new"), halves):
        kept, relabelled = protocol.keep_positions(
            labels[split][drawn], classes)
        np.testing.assert_array_equal(
            drawn[kept], oracle[f"{stem}/{half}/{split}"])
        np.testing.assert_array_equal(
            relabelled, oracle[f"{stem}/{half}/{split}_relabel"])

  def test_halves_of_the_released_sampler(self):
    oracle = _oracle()
    labels = oracle["sampling/test_labels"]
    halves = protocol.halves(oracle["sampling/train_labels"])
    for half, classes in zip(("base", "new"), halves):
      kept, relabelled = protocol.keep_positions(labels, classes)
      np.testing.assert_array_equal(classes, oracle[f"sampling/{half}/classes"])
      np.testing.assert_array_equal(kept, oracle[f"sampling/{half}/test"])
      np.testing.assert_array_equal(
          relabelled, oracle[f"sampling/{half}/test_relabel"])

  def test_as_many_of_each_class_as_asked(self):
    train = sets.load("shapes", split="train")
    val = sets.load("shapes", split="validation")
    few = protocol.few_shot(train, val, num_shots=8, seed=3)
    for part, expected in ((few.train, 8), (few.val, 4)):
      image_set.check(part)
      np.testing.assert_array_equal(
          np.bincount(part.labels), [expected] * len(train.class_names))
    self.assertLessEqual(set(few.train.ids), set(train.ids))
    position = train.ids.index(few.train.ids[0])
    np.testing.assert_array_equal(few.train.read(0), train.read(position))

  def test_no_validation(self):
    few = protocol.few_shot(
        _set([0, 1, 1, 0], "ab"), None, num_shots=2, seed=1)
    self.assertIsNone(few.val)
    self.assertCountEqual(few.train.ids, [f"toy/{i}" for i in range(4)])

  def test_what_is_refused(self):
    labels = np.array([0, 0, 1, 2, 2, 2])

    def draw(val=None, num_shots=2, num_classes=3, allow_fewer=False):
      return protocol.draw_shots(
          labels, val, num_shots=num_shots, num_classes=num_classes, seed=1,
          allow_fewer=allow_fewer)

    with self.assertRaisesRegex(
        ValueError, r"1 of 3 classes .* 2 .*training.*label 1 with 1; .*allow"):
      draw()
    with self.assertRaisesRegex(ValueError, "training split, such as owl with"):
      protocol.few_shot(
          _set([0, 0, 1], "ab")._replace(class_names=("ant", "owl")), None,
          num_shots=2, seed=1)
    self.assertLen(draw(allow_fewer=True).train, 5)
    with self.assertRaisesRegex(ValueError, "no image in the training.* 3"):
      draw(num_classes=4, allow_fewer=True)
    with self.assertRaisesRegex(ValueError, "no image in the validation"):
      draw(val=np.array([0, 1]), num_shots=1)
    with self.assertRaisesRegex(ValueError, r"label 2, outside \[0, 2\)"):
      draw(num_classes=2)
    with self.assertRaisesRegex(ValueError, "at least 1 shot"):
      draw(num_shots=0)

  def test_splits_of_two_data_sets_are_refused(self):
    with self.assertRaisesRegex(ValueError, "splits of one data set"):
      protocol.few_shot(
          _set([0, 1], "ab"), _set([0, 1], "ac"), num_shots=1, seed=1)


class HalvesTest(absltest.TestCase):

  def test_base_has_the_odd_class(self):
    base, new = protocol.halves(np.array([5, 0, 2, 2, 9, 7]))
    self.assertEqual((base.tolist(), new.tolist()), ([0, 2, 5], [7, 9]))

  def test_image_set_of_a_half(self):
    whole = _set([3, 0, 1, 3, 2], ["apple", "bee", "cow", "dog"])
    half = protocol.keep_classes(whole, np.array([2, 3]))
    image_set.check(half)
    self.assertEqual(half.class_names, ("cow", "dog"))
    self.assertEqual(half.ids, ("toy/0", "toy/3", "toy/4"))
    self.assertEqual(half.labels.tolist(), [1, 1, 0])
    self.assertEqual([half.read(i)[0, 0, 0] for i in range(3)], [0, 3, 4])

  def test_order_of_classes_is_the_order_of_labels(self):
    kept, labels = protocol.keep_positions(
        np.array([4, 1, 7, 4]), np.array([7, 4]))
    self.assertEqual((kept.tolist(), labels.tolist()), ([0, 2, 3], [1, 0, 1]))

  def test_what_is_refused(self):
    whole = _set([0, 1], "abc")
    with self.assertRaisesRegex(ValueError, "at least two classes"):
      protocol.halves(np.zeros(4, int))
    for classes in ([], [1, 1]):
      with self.assertRaisesRegex(ValueError, "distinct classes"):
        protocol.keep_classes(whole, np.array(classes, int))
    with self.assertRaisesRegex(ValueError, r"3 classes and none.*\[3\]"):
      protocol.keep_classes(whole, np.array([0, 3]))
    with self.assertRaisesRegex(ValueError, "no image of the 1"):
      protocol.keep_classes(whole, np.array([2]))


class ClassPositionsTest(absltest.TestCase):

  def test_by_name_whatever_the_spelling(self):
    found = protocol.class_positions(
        ["Sea_Lake", "forest"], ["Forest", "river", "sea lake"])
    self.assertEqual(found.tolist(), [2, 0])

  def test_names_that_repeat_keep_their_order(self):
    trained = ["missile", "cat", "missile"]
    found = protocol.class_positions(["cat", "missile", "missile"], trained)
    self.assertEqual(found.tolist(), [1, 0, 2])
    with self.assertRaisesRegex(ValueError, "'missile' stands for 2 .* 1 tim"):
      protocol.class_positions(["missile"], trained)

  def test_unknown_name(self):
    with self.assertRaisesRegex(ValueError, "1 of 2 classes .* such as dog"):
      protocol.class_positions(["cat", "dog"], ["cat"])


class SummaryTest(absltest.TestCase):

  def test_both_means_under_their_names(self):
    summary = protocol.summarise(np.array([3.07]), np.array([14.58]))
    self.assertAlmostEqual(summary.arithmetic_mean.mean, 8.825)
    self.assertAlmostEqual(summary.harmonic_mean.mean, 5.07202, places=5)
    self.assertTrue(math.isnan(summary.base.std))

  def test_over_seeds(self):
    summary = protocol.summarise(
        np.array([80.0, 82, 84]), np.array([60.0, 70, 65]))
    self.assertEqual(summary.base, (82, 2))
    self.assertEqual(summary.new, (65, 5))
    by_seed = [70, 76, 74.5]
    self.assertAlmostEqual(summary.arithmetic_mean.mean, np.mean(by_seed))
    harmonic = [2 / (1 / 80 + 1 / 60), 2 / (1 / 82 + 1 / 70),
                2 / (1 / 84 + 1 / 65)]
    centre = sum(harmonic) / 3
    self.assertAlmostEqual(summary.harmonic_mean.mean, centre)
    self.assertAlmostEqual(
        summary.harmonic_mean.std,
        math.sqrt(sum((h - centre) ** 2 for h in harmonic) / 2))

  def test_zero_has_a_harmonic_mean(self):
    np.testing.assert_array_equal(
        protocol.harmonic_mean(np.array([0.0, 0]), np.array([0.0, 5])), [0, 0])

  def test_what_is_refused(self):
    with self.assertRaisesRegex(ValueError, "one value per seed"):
      protocol.summarise(np.ones(3), np.ones(2))
    with self.assertRaisesRegex(ValueError, "not negative"):
      protocol.summarise(np.ones(1), -np.ones(1))


class DivergenceTest(parameterized.TestCase):

  @parameterized.product(
      features=("base_tuned", "base_zs", "new_tuned", "new_zs"), m=(1, 3, 5))
  def test_stored_numbers(self, features, m):
    oracle = _oracle("calibration_oracle")
    half, side = features.split("_")
    with jax.enable_x64(True):
      text = oracle[f"data/text_{half}_{side}"]
      np.testing.assert_allclose(
          protocol.neighbour_distances(text, m),
          oracle[f"fd/{features}_M{m}_per_class"], rtol=1e-9)
      np.testing.assert_allclose(
          protocol.fd_score(text, m), oracle[f"fd/{features}_M{m}"], rtol=1e-9)

  def test_ends(self):
    np.testing.assert_allclose(
        protocol.fd_score(np.eye(9)), math.sqrt(2), rtol=1e-6)
    np.testing.assert_array_equal(
        protocol.fd_score(np.tile(np.eye(3)[:1], (7, 1))), 0)

  def test_close_features_keep_their_distance_in_float32(self):
    angles = np.array([0, 1e-4])
    text = np.float32(np.stack([np.cos(angles), np.sin(angles)], -1))
    np.testing.assert_allclose(protocol.fd_score(text), 1e-4, rtol=1e-3)

  def test_all_others_where_there_are_few(self):
    np.testing.assert_array_equal(
        protocol.fd_score(np.eye(4), 5), protocol.fd_score(np.eye(4), 3))

  def test_what_is_refused(self):
    with self.assertRaisesRegex(ValueError, "at least two"):
      protocol.fd_score(np.ones((1, 3)))
    with self.assertRaisesRegex(ValueError, "at least 1 neighbour"):
      protocol.fd_score(np.eye(3), 0)


if __name__ == "__main__":
  absltest.main()
