"""Recipes are looked up by names that exist, and say what was published."""

from absl.testing import absltest
from absl.testing import parameterized

from jaxcal.tuning import presets


class PresetsTest(parameterized.TestCase):

  def test_both_presets_have_the_same_methods(self):
    upstream, dor = presets.RECIPES["upstream"], presets.RECIPES["dor"]
    self.assertEqual(set(upstream), set(dor))

  @parameterized.parameters("upstream", "dor")
  def test_numbers_are_in_range(self, preset):
    for name in presets.RECIPES[preset]:
      recipe = presets.recipe(name, preset)
      trained = name != "tip_adapter"  # which is looked up as it is
      self.assertEqual(recipe.learning_rate > 0, trained)
      self.assertEqual(recipe.num_epochs > 1, trained)
      self.assertGreater(recipe.batch_size, 0)
      self.assertIn(recipe.optimiser, ("sgd", "adam", "adamw"))
      # Words give four vectors at most; where there are more, others precede.
      self.assertGreaterEqual(recipe.num_context, 0)

  def test_where_the_presets_differ(self):
    pick = lambda name: (presets.recipe(name, "upstream"),
                         presets.recipe(name, "dor"))
    ours, theirs = pick("coop")
    self.assertEqual((ours.num_context, theirs.num_context), (4, 16))
    ours, theirs = pick("kgcoop")
    self.assertEqual((ours.batch_size, theirs.batch_size), (128, 32))
    ours, theirs = pick("promptsrc")
    self.assertEqual((ours.aggregation, theirs.aggregation),
                     ((15, 1), (30, 30)))
    ours, theirs = pick("maple")
    self.assertEqual((ours.from_words, theirs.from_words), (True, False))

  def test_outlier_weights(self):
    self.assertEqual(
        presets.spec("coop", additions=["dor"]).outlier_weight, 8.0)
    for name in ("kgcoop", "cocoop", "maple"):
      self.assertEqual(
          presets.spec(name, additions=["dor"]).outlier_weight, 2.0)

  def test_numbers_that_a_method_does_not_use_are_no_part_of_it(self):
    others = dict(outlier_weight=3.0, cache_weight=4.0, cache_sharpness=5.0)
    self.assertEqual(presets.spec("coop", **others), presets.spec("coop"))
    self.assertEqual(presets.spec(
        "coop", additions=["dor"], **others).outlier_weight, 3.0)
    cached = presets.spec("tip_adapter", **others)
    self.assertEqual((cached.outlier_weight, cached.cache_weight,
                      cached.cache_sharpness), (0.0, 4.0, 5.0))

  def test_other_numbers_than_the_recipe(self):
    spec = presets.spec("coop", num_context=7)
    found = presets.recipe_of(spec, num_epochs=3, learning_rate=0.1)
    self.assertEqual(found, presets.recipe("coop")._replace(
        num_context=7, num_epochs=3, learning_rate=0.1))
    # Nothing is trained, with whatever numbers.
    self.assertEqual(presets.recipe_of(
        presets.spec("tip_adapter"), num_epochs=3, batch_size=4),
                     presets.recipe("tip_adapter"))

  def test_unknown_names_list_the_choices(self):
    with self.assertRaisesRegex(ValueError, "'coup'; choose from: coop, "):
      presets.recipe("coup")
    with self.assertRaisesRegex(ValueError, "'paper'; choose from: upstream"):
      presets.recipe("coop", "paper")


if __name__ == "__main__":
  absltest.main()
