"""Choosing images to label, without the command."""

import pathlib
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pytest

import jaxcal
from jaxcal import predictions
from jaxcal.data import image_set as image_sets
from jaxcal.posterior import finetuning
from jaxcal.posterior import fit
from jaxcal.posterior import head
from jaxcal.posterior import select
from jaxcal.testbed import pairs as testbed_pairs
from jaxcal.testbed import sets


class SelectTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    scratch = tempfile.TemporaryDirectory()
    cls.addClassCleanup(scratch.cleanup)
    model = jaxcal.load("testbed")
    folder = pathlib.Path(scratch.name, "posterior")
    fit.fit(model, testbed_pairs.load(10), folder, candidates=5)
    chosen = head.load(folder, model)
    train = sets.load("digits", split="train")
    cls.study = select.Study(
        model, chosen, head.factors(folder, chosen.about),
        target=image_sets.limit(sets.load("digits"), 6),
        pools=[image_sets.take(train, range(3)),
               image_sets.take(train, range(5, 9))._replace(name="more")],
        num_samples=4, schedule=finetuning.Schedule(
            learning_rate=0.01, num_epochs=2))

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path, "chosen")

  def _select(self, study=None, **options):
    return select.select(study or self.study, self.folder, **{
        "strategies": ["random", "entropy"], "budgets": [2, 3], "seeds": [5],
        **options})

  @pytest.mark.slow
  def test_choices_are_of_all_pools_and_kept(self):
    told = []
    paths = self._select(about={"mine": 1}, progress=lambda *at: (
        told.append(at)))
    self.assertEqual(list(paths), [
        "before", "random-2-5", "random-3-5", "entropy-2-5", "entropy-3-5"])
    pool = [i for one in self.study.pools for i in one.ids]
    found = {name: predictions.load(path) for name, path in paths.items()}
    for name, one in found.items():
      self.assertEqual(one.ids, self.study.target.ids)
      np.testing.assert_array_equal(one.labels, self.study.target.labels)
      self.assertEqual((one.settings["mine"], one.settings["method"]),
                       (1, name))
      if name != "before":
        self.assertContainsSubset(one.settings["selected"], pool)
    # The images whose zero-shot prediction is the least certain.
    certain = []
    for one in self.study.pools:
      plain = jaxcal.predict(
          {"zero_shot": jaxcal.ZeroShot()},
          jaxcal.task_of(self.study.model, one.class_names), one,
          model=self.study.model, num_views=1)["zero_shot"].logits
      probs = np.exp(plain - plain.max(1, keepdims=True))
      probs /= probs.sum(1, keepdims=True)
      certain += (probs * np.log(probs)).sum(1).tolist()
    self.assertEqual(found["entropy-3-5"].settings["selected"],
                     [pool[row] for row in np.argsort(certain)[:3]])
    self.assertEqual(list(dict.fromkeys(at[0] for at in told)),
                     ["target", "pool-digits", "pool-more", "choices"])
    self.assertEqual(told[-1], ("choices", 4, 4))
    # Again: nothing is computed, or told.
    told.clear()
    self.assertEqual(self._select(progress=lambda *at: told.append(at)), paths)
    self.assertEqual(told, [])

  def test_progress_over_the_files(self):
    path = pathlib.Path(self.create_tempdir().full_path, "x")
    path.write_bytes(b"x")
    study = self.study._replace(
        target=self.study.target._replace(path=lambda position: path))
    told = []
    select.look(study, self.folder, select.cells(["random"], [1], [0]),
                progress=lambda *at: told.append(at))
    self.assertEqual(told[-1], ("target: files", 6, 6))

  @parameterized.parameters(
      (dict(strategies=["guess"]), "unknown strategy 'guess'; choose from"),
      (dict(strategies=["random", "random"]), "strategies are .* none twice"),
      (dict(budgets=[]), "budgets are .* one at least"),
      (dict(budgets=[0, 2]), "numbers of at least 1"),
      (dict(seeds=[]), "seeds are .* one at least"),
      (dict(budgets=[8]), "budgets reach 8, but the pool of digits has 7"))
  def test_errors(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      self._select(**options)
    self.assertFalse(self.folder.exists())

  def test_pools_that_do_not_go_with_the_target(self):
    pool = self.study.pools[0]
    for pools, message in (
        ((), "one at least"), ((pool, pool), "no name twice"),
        ((pool._replace(name="a/b"),), "cannot be the name of a file"),
        ((pool._replace(class_names=pool.class_names[::-1]),),
         "other classes than digits")):
      with self.assertRaisesRegex(ValueError, message):
        self._select(self.study._replace(pools=pools), budgets=[1])

  def test_every_number_is_in_the_identity(self):
    (cell,), factors = select.cells(["bald"], [2], [0]), self.study.factors
    changed = {
        "template": "{}", "metric": "cosine", "num_samples": 5,
        "validation": self.study.pools[0],
        "pools": self.study.pools[::-1],
        "target": image_sets.take(self.study.target, [1, 0]),
        "factors": factors._replace(factors={
            **factors.factors, "image": factors.factors["text"]}),
        "chosen": self.study.chosen._replace(
            about=self.study.chosen.about | {"pseudo_count": 5.0}),
        **{f"schedule.{name}": self.study.schedule._replace(**{name: 3})
           for name in finetuning.Schedule._fields}}
    found = [select.look(self.study, self.folder, [cell])[0]["bald-2-0"]]
    for name, value in changed.items():
      study = self.study._replace(**{name.partition(".")[0]: value})
      found.append(select.look(study, self.folder, [cell])[0]["bald-2-0"])
    self.assertLen({str(sorted(one.items())) for one in found}, len(found))


if __name__ == "__main__":
  absltest.main()
