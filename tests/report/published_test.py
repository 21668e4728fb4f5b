"""Published numbers beside ours: which, how far off, and which cannot be."""

import re

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from jaxcal.data import catalogue
from jaxcal.report import published
from jaxcal.report import sections
from jaxcal.report import summary
from jaxcal.report import tables

_OFFICIAL = published.Setting("ViT-B/16", "all", "template", 64, True)


def _row(**changes):
  row = {"data": "dtd", "method": "tpt", "num_images": 1692,
         "accuracy": 0.4712, "ece": 0.2096, "ece_low": 0.19, "ece_high": 0.22}
  return row | changes


def _beside(source, metric, setting=_OFFICIAL, num_bins=20, **changes):
  found, = (
      one for one in published.compare(
          [_row(**changes)], setting, summary.Conventions(num_bins))
      if (one["source"], one["metric"]) == (source, metric) and
      "backbone" not in one["reasons"])
  return found


class PublishedTest(parameterized.TestCase):

  def test_the_file(self):
    numbers = published._numbers()
    self.assertEqual(numbers["num_images"], {
        name: row.counts.get("test", row.counts.get("val"))
        for name, row in catalogue.CATALOGUE.items() if row.of_papers})
    for row in numbers["rows"]:
      self.assertIn(row["source"], numbers["sources"])
      self.assertIn(row["trust"], ("table read", "second hand", "suspect"))
      self.assertTrue(row["trust"] != "suspect" or row["note"])
      self.assertContainsSubset(row["values"], numbers["num_images"])
      for value in row["values"].values():
        self.assertRegex(value, r"^\d+(\.\d+)?( \+- \d\.\d\d)?$")
    self.assertEqual({row["source"] for row in numbers["rows"]},
                     set(numbers["sources"]))

  def test_a_band_from_seeds(self):
    # 47.12 +- 0.11 of three seeds; Student's t with two degrees is 4.3027.
    band = 4.302653 * 0.11 * np.sqrt(4 / 3) + 0.005
    for points, verdict in ((0.99 * band, "match"), (-0.99 * band, "match"),
                            (1.01 * band, "off"), (-1.01 * band, "off")):
      found = _beside("cots", "accuracy", accuracy=0.4712 + points / 100)
      self.assertAlmostEqual(100 * found["band"], band, places=6)
      self.assertEqual(found["band_from"], "3 seeds")
      self.assertEqual(found["verdict"], verdict)
      self.assertAlmostEqual(100 * found["difference"], points, places=9)

  def test_a_band_from_the_binomial(self):
    found = _beside("otpt_readme", "accuracy", accuracy=0.48)
    self.assertEqual((found["there"], found["band_from"]), (0.467, "binomial"))
    self.assertAlmostEqual(
        found["band"],
        1.959964 * np.sqrt(0.467 * 0.533 / 1692) + 0.0005, places=8)
    self.assertEqual(found["verdict"], "match")

  def test_a_band_from_the_bootstrap(self):
    found = _beside("otpt_readme", "ece", ece=0.2)
    self.assertEqual((found["there"], found["band_from"]), (0.212, "bootstrap"))
    self.assertAlmostEqual(found["band"], 0.02 + 0.0005, places=9)
    self.assertEqual(found["verdict"], "match")

  @parameterized.parameters(
      ({"num_bins": 15}, "ece", "bins", "20 bins there, 15 here: "
       "--config.metrics.num_bins=20"),
      ({"num_images": 100}, "accuracy", "images",
       "1,692 images there, 100 here"),
      ({"setting": _OFFICIAL._replace(num_views=8)}, "accuracy", "views",
       "64 views there, 8 here"),
      ({"setting": _OFFICIAL._replace(augmix=False)}, "accuracy", "crops",
       "crops with AugMix there, without AugMix here"),
      ({"setting": _OFFICIAL._replace(prompt="template: an image of a")},
       "accuracy", "prompt", "template there, template: an image of a here"))
  def test_not_comparable(self, changes, metric, reason, text):
    found = _beside("cots", metric, **changes)
    self.assertEqual(found["verdict"], published.NOT_COMPARABLE)
    self.assertEqual(found["reasons"], {reason: text})
    # Bins decide nothing but the ECE, and views nothing of one view.
    if reason == "bins":
      self.assertEqual(_beside("cots", "accuracy", **changes)["reasons"], {})
    if reason in ("crops", "views"):
      self.assertEqual(
          _beside("cots", metric, method="zero_shot", **changes)["reasons"],
          {})

  def test_what_is_not_known_is_no_reason(self):
    found = _beside("cots", "ece", published.Setting("ViT-B/16"))
    self.assertEqual(found["verdict"], published.MATCH)

  def test_a_suspect_cell(self):
    found = _beside("otpt_readme", "ece", data="eurosat", num_images=8100)
    self.assertEqual(found["verdict"], published.NOT_COMPARABLE)
    self.assertIn("equal to the C-TPT cell", found["reasons"]["suspect"])

  def test_another_backbone(self):
    found = published.compare(
        [_row()], _OFFICIAL._replace(backbone="testbed"), summary.Conventions())
    self.assertNotEmpty(found)
    for row in found:
      self.assertIn("testbed here", row["reasons"]["backbone"])
    self.assertEmpty(published.shown(found))
    self.assertRegex(published.remarks(found)[-1], f"{len(found)} more numbers")
    self.assertLen(list(published.blocks(found)), 2)

  def test_stages_are_found_by_their_label(self):
    """What others did afterwards is no number of the plain method."""
    posts = {row["method"] + "+" + row.get("post", "")
             for row in published._numbers()["rows"]}
    self.assertIn("coop+temperature", posts)
    setting = published.Setting("ViT-B/16", "new")
    one = _row(method="coop", tuned_seed=2)
    plain, fitted = (
        published.compare([row], setting, summary.Conventions(num_bins=10))
        for row in (one, one | {"recalibrator": "temperature"}))
    self.assertNotEmpty(plain)
    self.assertNotEmpty(fitted)
    self.assertNotEqual({row["there"] for row in plain},
                        {row["there"] for row in fitted})
    self.assertEqual(plain[0]["tuned_seed"], 2)
    self.assertEmpty(published.compare(
        [_row(method="mine")], setting, summary.Conventions()))
    self.assertIn("Nothing published", published.remarks([])[0])

  @parameterized.parameters(
      ("openai/clip-vit-base-patch16", "ViT-B/16"), ("ViT-B/16", "ViT-B/16"),
      ("weights/ViT-L-14/", "ViT-L/14"), ("RN50", "RN50"),
      ("weights/RN50-quickgelu", "RN50"),
      ("timm/resnet50_clip.openai", "RN50"), ("RN50x4", "RN50x4"),
      ("timm/resnet50_clip.cc12m", "timm/resnet50_clip.cc12m"),
      ("google/siglip-base-patch16-224", "SigLIP"),
      ("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "ViT-B/32 laion2B"),
      ("openai/clip-vit-large-patch14-336", "openai/clip-vit-large-patch14-336"
       ), ("testbed", "testbed"),
      ("laion/CLIP-ViT-B-16-laion2B-s34B-b88K",
       "laion/CLIP-ViT-B-16-laion2B-s34B-b88K"))
  def test_backbones(self, name, backbone):
    self.assertEqual(published.setting_of(
        {"config.model.name": name}), published.Setting(backbone))

  def test_settings_of_a_run(self):
    told = {"config.model.name": "ViT-B/16", "config.data.classes": "new",
            "config.data.template": "a photo of a {}.",
            "config.views.number": None, "config.views.augmix": None,
            "config.protocol": "defaults"}
    self.assertEqual(published.setting_of(told), published.Setting(
        "ViT-B/16", "new", "template", 64, False))
    told |= {"config.protocol": "paper", "config.views.number": 8,
             "config.data.template": "a blurry photo of a {}."}
    self.assertEqual(published.setting_of(told), published.Setting(
        "ViT-B/16", "new", "template: a blurry photo of a", 8, None))
    self.assertEqual(published.setting_of(
        told | {"config.method.context": "fpp"}).prompt, "context of its own")

  def test_refused_before_measuring(self):
    published.check("dtd", "ViT-B/16")
    with self.assertRaisesRegex(ValueError, "did you mean dtd"):
      published.check("dtdd", "ViT-B/16")
    for model in (None, "mine"):
      with self.assertRaisesRegex(ValueError, f"the model is {model}.*RN50"):
        published.check("dtd", model)

  def test_tables(self):
    found = published.compare(
        [_row(accuracy=0.5, num_images=1692)], _OFFICIAL,
        summary.Conventions(num_bins=15))
    text = tables.markdown(published.shown(found), tables.PUBLISHED)
    lines = [re.sub(" +", " ", line) for line in text.splitlines()]
    self.assertIn("| dtd | tpt | accuracy | 50.00 | 47.12 | +- 0.55 (3 seeds) "
                  "| off by +2.88 | cots, Table 1 | |", lines)
    self.assertTrue(any("not comparable: 20 bins there, 15 here" in line
                        for line in lines))
    section, *others = [
        one for one in sections.more([], [], found, summary.Conventions())
        if one.blocks]
    self.assertEmpty(others)
    self.assertEqual(section.heading, "Beside published numbers")
    *said, table = section.blocks
    self.assertEqual(said, published.remarks(found))
    self.assertIn("off by +2.88", [
        cell for row in tables.cells(table.rows, table.columns)
        for cell in row])


if __name__ == "__main__":
  absltest.main()
