"""The plan on the page is that of the records."""

from absl.testing import absltest

from benchmarks import planning

_COMPILED = {"chip": {"memory": 16e9}, "programs": {
    name: {"bound_ms": milliseconds} for name, milliseconds in {
        "views of photographs": 1, "image tower, ViT-B/16": 10,
        "predictions, 47 classes": 20, "predictions, 1,000 classes": 200,
        "prepare, 1,000 classes": 4000, "text, 47 classes": 2,
        "text, 1,000 classes": 8}.items()}}
_DECODED = {"rows": [{"pipeline_ms": 3}, {"pipeline_ms": 2}]}


class PlanningTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.plan = planning.Plan(_COMPILED, _DECODED)

  def test_the_page_has_the_tables_of_the_records(self):
    page = planning.PAGE.read_text("utf-8")
    self.assertTrue(
        planning.on_page(page) == page,
        "run `python -m benchmarks.planning --write`")

  def test_whole_batches_on_all_chips(self):
    found = self.plan.seconds(2401, 1000, 1)
    self.assertEqual(list(found.values()), [4, 0.301, 3.01, 60.2])
    found = self.plan.seconds(2401, 1000, 8)
    self.assertAlmostEqual(found["predictions"], 38 * 0.2)
    self.assertEqual(found["preparing the classes"], 4)

  def test_few_images_need_no_matrix(self):
    self.assertEqual(self.plan.once(100, 47), 2)
    self.assertEqual(self.plan.once(100, 1000), 8)
    self.assertEqual(self.plan.once(5000, 500), 2000)

  def test_all_fifteen_sets_are_there(self):
    self.assertLen(planning.every_set(self.plan), 16)

  def test_bytes_of_a_store(self):
    self.assertEqual(planning.store_bytes(10), 10 * 2 * (64 * 512 + 768))


if __name__ == "__main__":
  absltest.main()
