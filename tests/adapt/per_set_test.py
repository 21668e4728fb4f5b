"""Released numbers by test set."""

from absl.testing import absltest
from absl.testing import parameterized

from jaxcal.adapt import methods
from jaxcal.adapt import per_set
from jaxcal.data import catalogue

_METHODS = ("tda", "boostadapter", "dpe", "tps", "dynaprompt", "onzeta")


class PerSetTest(parameterized.TestCase):

  @parameterized.parameters(*_METHODS)
  def test_there_are_some_for_every_set_of_the_papers(self, name):
    for row in catalogue.CATALOGUE.values():
      if row.of_papers:
        found = methods.method(name, **per_set.numbers(name, row.name))
        found.method()

  @parameterized.parameters(*_METHODS)
  def test_defaults_are_those_of_imagenet(self, name):
    self.assertEqual(
        methods.method(name, **per_set.numbers(name, "imagenet")),
        methods.method(name))

  @parameterized.parameters(
      ("tda", "caltech101", dict(alpha=5, beta=5)),
      ("tda", "imagenet_sketch", dict(alpha=2.363, beta=7.45)),
      ("boostadapter", "fgvc_aircraft",
       dict(alpha=2, beta=2, extra_capacity=2)),
      ("dpe", "stanford_cars",
       dict(alpha=3, beta=7, learning_rate=1e-4, alignment=1.5)),
      ("dpe", "imagenet_a", dict(
          alpha=6, beta=5, learning_rate=3e-4, alignment=2.5,
          predicted="confident")),
      ("tps", "sun397", dict(learning_rate=1e-3)),
      ("dynaprompt", "dtd", dict(learning_rate=3e-3)),
      ("onzeta", "caltech101", dict(beta=0.4, balance=0)))
  def test_some(self, name, data, expected):
    found = per_set.numbers(name, data)
    self.assertEqual(found.keys(), expected.keys())
    for key, value in expected.items():
      if isinstance(value, str):
        self.assertEqual(found[key], value)
      else:
        self.assertAlmostEqual(found[key], value)

  @parameterized.parameters(
      ("mta", "dtd", "method 'mta'; .*boostadapter"),
      ("tda", "flowers", "image set 'flowers'; .*oxford_flowers"))
  def test_unknown(self, name, data, message):
    with self.assertRaisesRegex(ValueError, message):
      per_set.numbers(name, data)


if __name__ == "__main__":
  absltest.main()
