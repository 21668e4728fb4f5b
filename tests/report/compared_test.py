"""Finished runs compared image by image, against counts made by hand."""

import csv
import json
import math
import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pytest
from scipy import special

from jaxcal import predictions
from jaxcal import stages
from jaxcal.report import compared
from jaxcal.report import resampled
from jaxcal.report import scores
from jaxcal.report import summary

_CONVENTIONS = summary.Conventions(num_bins=5, num_resamples=50)
_CLASSES = ("cat", "dog", "owl", "red fox")


def save(run, name, rows, *, seed, data="pets", **changes):
  """Predictions of some of 80 images, in the order of `rows`.

  Labels depend on the image alone, logits on the seed, too.
  """
  labels = np.random.default_rng(0).integers(4, size=80)
  logits = np.random.default_rng(seed).normal(size=(80, 4))
  logits[np.arange(80), labels] += 1.5
  one = predictions.Predictions(
      logits[rows].astype(np.float32), labels[rows].astype(np.int32),
      tuple(f"image-{row}" for row in rows), _CLASSES,
      settings=stages.setting(stages.Stages(name)))
  one = one._replace(**changes)
  predictions.save(one, run / "predictions" / data / name)
  return one


def _holm(p_values):
  """Holm's method in a loop."""
  found, largest = [0.0] * len(p_values), 0.0
  for rank, index in enumerate(np.argsort(p_values, kind="stable")):
    largest = max(largest, min(1, (len(p_values) - rank) * p_values[index]))
    found[index] = largest
  return found


def _exact(ours, theirs):
  """McNemar's test by counting: both tails of a fair coin."""
  total = ours + theirs
  counts = [math.comb(total, hits) for hits in range(total + 1)]
  tail = sum(counts[:min(ours, theirs) + 1]) / 2 ** total
  return min(1.0, 2 * tail)


class ComparedTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.create_tempdir().full_path)
    self.one, self.other = self.root / "one", self.root / "other"
    # 60 of the images, and 55 of which 40 are among them, in another order.
    self.rows = np.arange(60)
    self.other_rows = np.random.default_rng(1).permutation(np.arange(20, 75))
    for seed, name in enumerate(("tpt", "soc")):
      save(self.one, name, self.rows, seed=seed)
      save(self.other, name, self.other_rows, seed=10 + seed)

  def _sides(self, name):
    """Both sides, one image after the other, by a dictionary of ids."""
    both = [predictions.load(run / "predictions" / "pets" / name)
            for run in (self.one, self.other)]
    place = [{image_id: row for row, image_id in enumerate(one.ids)}
             for one in both]
    common = [image_id for image_id in both[0].ids if image_id in place[1]]
    return common, *(one._replace(
        ids=tuple(common), logits=one.logits[[at[i] for i in common]],
        labels=one.labels[[at[i] for i in common]])
                     for one, at in zip(both, place))

  def test_numbers_of_the_images_that_both_have(self):
    found = compared.compare(
        compared.plan([self.one, self.other]), _CONVENTIONS)
    self.assertEqual([row["method"] for row in found.rows], ["soc", "tpt"])
    for row in found.rows:
      ids, ours, theirs = self._sides(row["method"])
      self.assertLen(ids, 40)
      right, confidence, losses = [], [], []
      for one in (ours, theirs):
        probs = special.softmax(one.logits.astype(np.float64), axis=1)
        right.append(one.logits.argmax(1) == one.labels)
        confidence.append(probs.max(1))
        losses.append(-np.log(probs[np.arange(40), one.labels]))
      self.assertEqual(
          (row["num_images"], row["images_in_run_only"],
           row["images_in_reference_only"], row["run"], row["reference_run"],
           row["reference"]), (40, 20, 15, "one", "other", row["method"]))
      self.assertAlmostEqual(
          row["accuracy_difference"], right[0].mean() - right[1].mean())
      self.assertAlmostEqual(
          row["nll_difference"], losses[0].mean() - losses[1].mean())
      self.assertEqual(row["agree"], sum(
          a.argmax() == b.argmax() for a, b in zip(ours.logits, theirs.logits)))
      only = [sum(a and not b for a, b in zip(right[i], right[1 - i]))
              for i in (0, 1)]
      self.assertEqual([row["right_in_run_only"],
                        row["right_in_reference_only"]], only)
      self.assertGreater(min(only), 0)
      change = confidence[0] - confidence[1]
      largest = np.abs(change).argmax()
      self.assertEqual(row["largest_confidence_change_id"], ids[largest])
      self.assertAlmostEqual(row["largest_confidence_change"], change[largest])
    mcnemar = [_exact(row["right_in_run_only"], row["right_in_reference_only"])
               for row in found.rows]
    np.testing.assert_allclose(
        [row["mcnemar_p"] for row in found.rows], _holm(mcnemar))
    names = [f"{name}_difference_p" for name in scores.SCORES]
    plain = [resampled.difference_row(*(
        resampled.of(one, _CONVENTIONS)
        for one in self._sides(row["method"])[1:]), _CONVENTIONS.level)
             for row in found.rows]
    np.testing.assert_allclose(
        [row[name] for row in found.rows for name in names],
        _holm([row[name] for row in plain for name in names]))

  def test_the_order_of_the_files_has_no_influence(self):
    before = compared.compare(
        compared.plan([self.one, self.other]), _CONVENTIONS)
    for seed, name in enumerate(("tpt", "soc")):
      save(self.other, name, np.sort(self.other_rows), seed=10 + seed)
    after = compared.compare(
        compared.plan([self.one, self.other]), _CONVENTIONS)
    self.assertEqual(after, before)

  def test_what_only_one_has_is_said(self):
    save(self.one, "mta", self.rows, seed=3)
    save(self.one, "tpt", self.rows, seed=3, data="cars")
    save(self.other, "tda", self.other_rows, seed=3)
    save(self.other, "soc", self.other_rows[:30], seed=3)
    planned = compared.plan([self.one, self.other])
    common = len({*self.other_rows[:30].tolist()} & {*range(60)})
    self.assertEqual(planned.remarks, [
        "cars: in one only.", "pets, mta: in one only.",
        "pets, tda: in other only.",
        f"pets, soc: compared are the {common} images that both have; "
        f"{60 - common} more are in one alone, {30 - common} in other alone.",
        "pets, tpt: compared are the 40 images that both have; 20 more are in "
        "one alone, 15 in other alone."])
    text = str(compared.compare(planned, _CONVENTIONS))
    for remark in planned.remarks:
      self.assertIn(f"- {remark}", text)

  @pytest.mark.slow
  def test_any_two_methods_also_of_one_run(self):
    planned = compared.plan([self.one, self.one], ["tpt", "soc"])
    row, = compared.compare(planned, _CONVENTIONS).rows
    self.assertEqual(
        (row["run"], row["method"], row["reference_run"], row["reference"],
         row["num_images"]), ("one", "tpt", "one", "soc", 60))
    self.assertEqual(planned.remarks, [])
    row, = compared.compare(
        compared.plan([self.one, self.other], ["tpt"]), _CONVENTIONS).rows
    self.assertEqual((row["method"], row["reference"]), ("tpt", "tpt"))
    # The first is compared with each of the others.
    rows = compared.compare(compared.plan(
        [self.one, self.other, self.one], ["tpt", "tpt", "soc"]),
        _CONVENTIONS).rows
    self.assertEqual([(row["reference_run"], row["reference"]) for row in rows],
                     [("other", "tpt"), ("one", "soc")])

  def test_stages_are_fields(self):
    of = stages.Stages("tpt", recalibrator="temperature")
    for run, rows in ((self.one, self.rows), (self.other, self.other_rows)):
      save(run, of.label, rows, seed=4, settings=stages.setting(of))
    row, = compared.compare(compared.plan(
        [self.one, self.other], [of.label, "tpt"]), _CONVENTIONS).rows
    self.assertEqual((stages.of(row), stages.reference_of(row)),
                     (of, stages.Stages("tpt")))

  def test_what_differs_between_settings(self):
    for run, about, weight in (
        (self.one, {"config.views.number": 64, "config.views.seed": 0,
                    "model.fingerprint": "a"}, 3.0),
        (self.other, {"config.views.number": 8, "config.views.seed": 0,
                      "config.method.weight": None}, 5.0)):
      (run / "run.json").write_text(json.dumps(about))
      save(run, "tpt", self.rows, seed=1, settings=stages.setting(
          stages.Stages("tpt")) | {"numbers": {"weight": weight, "steps": 1}})
    found = compared.compare(
        compared.plan([self.one, self.other]), _CONVENTIONS)
    self.assertEqual(
        [(row["field"], row.get("value", ""), row.get("reference_value", ""))
         for row in found.settings],
        [("config.views.number", 64, 8), ("model.fingerprint", "a", ""),
         ("config.method.weight", "", None),
         ("pets, tpt: weight", 3.0, 5.0)])
    self.assertRegex(str(found), r"\| config.views.number +\| 64 +\| 8 +\|")
    (self.other / "run.json").unlink()
    self.assertIn("other has no run.json", str(compared.compare(
        compared.plan([self.one, self.other]), _CONVENTIONS)))

  def test_other_image_files_of_the_same_ids(self):
    said = "pets: images of the same ids, but not the same: the files of one"
    for ids, contents, expected in (
        ("a", "c", 1), ("a", "b", 0), ("z", "c", 0), ("a", None, 0)):
      for run, identity in (
          (self.one, {"data.ids": "a", "data.contents": "b"}),
          (self.other, {"data.ids": ids, "data.contents": contents})):
        for name in ("tpt", "soc"):
          save(run, name, self.rows, seed=1, settings=stages.setting(
              stages.Stages(name)) | {"identity": identity})
      text = str(compared.compare(
          compared.plan([self.one, self.other]), _CONVENTIONS))
      self.assertEqual(text.count(said), expected)

  def test_recalibrations_say_what_they_were_made_from(self):
    for run, share in ((self.one, 0.2), (self.other, 0.3)):
      (run / "run.json").write_text(json.dumps(
          {"recalibrator": "temperature", "share": share, "fits": {"a": share},
           "predictions": {"pets": {"tpt": [str(share)]}},
           "settings": {"config.metrics.num_resamples": 30,
                        "config.views.seed": 1}}))
    found = compared.compare(compared.plan([self.one, self.other]))
    self.assertEqual(
        [(row["field"], row["value"], row["reference_value"])
         for row in found.settings], [("recalibration.share", 0.2, 0.3)])
    self.assertEqual(found.conventions.num_resamples, 30)

  def test_files(self):
    planned = compared.plan([self.one, self.other])
    found = compared.compare(planned, _CONVENTIONS)
    output = self.root / "out"
    compared.write(planned, found, output)
    self.assertCountEqual([path.name for path in output.iterdir()],
                          ["compare.md", "compare.jsonl", "per_image.csv"])
    self.assertEqual((output / "compare.md").read_text(), f"{found}\n")
    lines = (output / "compare.jsonl").read_text().splitlines()
    self.assertEqual([json.loads(line) for line in lines],
                     [{"kind": "difference", **row} for row in found.rows])
    with open(output / "per_image.csv", newline="") as file:
      rows = list(csv.DictReader(file))
    self.assertLen(rows, 80)
    ids, ours, theirs = self._sides("tpt")
    of_method = [row for row in rows if row["method"] == "tpt"]
    for row, image_id, label, *logits in zip(
        of_method, ids, ours.labels, ours.logits, theirs.logits):
      self.assertEqual((row["id"], row["label"]), (image_id, _CLASSES[label]))
      for prefix, values in zip(("", "reference_"), logits):
        self.assertEqual(
            row[f"{prefix}predicted"], _CLASSES[values.argmax()])
        np.testing.assert_allclose(
            float(row[f"{prefix}confidence"]),
            special.softmax(values.astype(float)).max(), rtol=1e-8)

  def test_never_into_a_run(self):
    planned = compared.plan([self.one, self.other])
    found = compared.compare(planned, _CONVENTIONS)
    third = self.root / "third"
    third.mkdir()
    (third / "run.json").write_text("{}")
    before = sorted(self.root.rglob("*"))
    for output, message in (
        (self.other, "would write into .*other"),
        (self.one / "compared", "would write into .*one"),
        (third, "holds another run")):
      with self.assertRaisesRegex(ValueError, message):
        compared.write(planned, found, output)
    self.assertEqual(sorted(self.root.rglob("*")), before)

  def test_refuses_other_labels_and_classes(self):
    one = save(self.other, "tpt", self.other_rows, seed=2)
    labels = one.labels.copy()
    at = one.ids.index("image-33")
    labels[at] = (labels[at] + 1) % 4
    # Of an image that only one has, it does not matter.
    labels[one.ids.index("image-70")] = 0
    save(self.other, "tpt", self.other_rows, seed=2, labels=labels)
    with self.assertRaisesRegex(
        ValueError, "pets, tpt of one and tpt of other: 1 of 40 images have "
        "the same id and another label, the first one 'image-33', "
        f"'{_CLASSES[one.labels[at]]}' and '{_CLASSES[labels[at]]}'"):
      compared.plan([self.one, self.other])
    save(self.other, "tpt", self.other_rows, seed=2,
         class_names=("cat", "owl", "dog", "red fox"))
    with self.assertRaisesRegex(
        ValueError, "class 1 is 'dog' in one and 'owl' in other"):
      compared.plan([self.one, self.other])
    save(self.other, "tpt", self.other_rows, seed=2,
         class_names=(*_CLASSES, "bee"), logits=np.zeros((55, 5), np.float32))
    with self.assertRaisesRegex(ValueError, "are 4 in one and 5 in other"):
      compared.plan([self.one, self.other])
    save(self.other, "tpt", self.other_rows, seed=2, labels=None)
    with self.assertRaisesRegex(ValueError, "pets, tpt: .* have no labels"):
      compared.plan([self.one, self.other])

  @parameterized.parameters(
      ((), (), "two runs or more to compare, got 0"),
      (("one",), (), "two runs or more to compare, got 1"),
      (("one", "one"), (), "one would be compared with itself"),
      (("one", "one"), ("tpt",), "one would be compared with itself"),
      (("one", "other"), ("tpt", "soc", "tpt"), "for each of the 2 runs"),
      (("one", "other"), ("tpt", "sco"), "no method 'sco'; did you mean soc"),
      (("one", "cars"), (), "no image set in common: one has pets; cars has"),
      (("one", "mta"), (), "no method in common.*one has soc, tpt; mta has m"),
      (("one", "late"), (), "tpt of late: no image in common; .*'image-0' and"))
  def test_refuses(self, runs, methods, message):
    save(self.root / "cars", "tpt", self.rows, seed=1, data="cars")
    save(self.root / "mta", "mta", self.rows, seed=1)
    save(self.root / "late", "tpt", np.arange(70, 80), seed=1)
    with self.assertRaisesRegex(ValueError, message):
      compared.plan([self.root / run for run in runs], methods)

  def test_runs_of_one_name_go_by_their_paths(self):
    twin = self.root / "below" / "one"
    save(twin, "tpt", self.rows, seed=5)
    row, = compared.compare(
        compared.plan([self.one, twin]), _CONVENTIONS).rows
    self.assertEqual((row["run"], row["reference_run"]),
                     (str(self.one), str(twin)))


if __name__ == "__main__":
  absltest.main()
