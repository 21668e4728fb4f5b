"""Ranges of the experiment's fields, and their descriptions."""

import dataclasses
import re
import typing

from absl.testing import absltest
from absl.testing import parameterized

from jaxcal import config


class ConfigTest(parameterized.TestCase):

  def test_defaults_are_valid(self):
    config.validate(config.ExperimentConfig())

  @parameterized.parameters(
      ("data", "limit", -1, "expected >= 0"),
      ("data", "template", "a photo.", "exactly one"),
      ("data", "name", (), "a name"),
      ("views", "number", 0, ">= 1"),
      ("views", "min_area", 0.0, "in \\(0, --config.views.max_area\\]"),
      ("views", "max_area", 1.5, "<= 1"),
      ("views", "flip_probability", -0.1, "in \\[0, 1\\]"),
      ("method", "learning_rate", -1.0, ">= 0"),
      ("method", "num_steps", -1, ">= 0"),
      ("method", "selection_fraction", 0.0, "in \\(0, 1\\]"),
      ("method", "delta", 0.0, "in \\(0, 1\\]"),
      ("method", "quantile", 2.0, "in \\[0, 1\\]"),
      ("metrics", "num_bins", 0, ">= 1"),
      ("metrics", "edges", "both", "'left' or 'right'"),
      ("metrics", "level", 1.0, "in \\(0, 1\\)"),
      ("metrics", "num_resamples", 1, ">= 2"),
      ("method", "context", "random", "'template', 'fpp' or the path"),
      ("fpp", "num_steps", 0, ">= 1"),
      ("fpp", "learning_rate", 0.0, "> 0"),
      ("model", "image_precision", "float32",
       "'auto', 'highest', 'high', 'default' or 'bfloat16'"),
      ("model", "text_precision", "auto",
       "'highest', 'high', 'default' or 'bfloat16'"),
      ("data", "source", "webdataset", "'files' or 'tfds'"),
      ("data", "classes", "old", "'all', 'base' or 'new'"))
  def test_values_out_of_range_are_named(self, part, name, value, expected):
    experiment = config.ExperimentConfig()
    setattr(getattr(experiment, part), name, value)
    with self.assertRaisesRegex(ValueError, rf"config\.{part}.*{expected}"):
      config.validate(experiment)

  @parameterized.parameters(
      ("memory_gb", 0.0, "> 0"), ("memory_gb", -1.0, "> 0"),
      ("memory_gb", 1e308, "<= 1000000"),
      ("linearisation", "jvp", "'auto', 'vjp' or 'jacobian'"),
      ("batch_size", 0, ">= 1"), ("num_threads", 0, ">= 1"))
  def test_values_of_no_part_are_named(self, name, value, expected):
    experiment = config.ExperimentConfig()
    setattr(experiment, name, value)
    with self.assertRaisesRegex(
        ValueError, rf"^--config\.{name} is {re.escape(repr(value))}, expected "
        rf"{expected}$"):
      config.validate(experiment)

  @parameterized.parameters(
      ("method", "num_steps", (None, 0, 1, 7)),
      ("method", "context", ("template", "fpp")),
      ("fpp", "num_steps", (1, 5000)), ("fpp", "learning_rate", (1e-3,)),
      ("fpp", "flatness_weight", (None, 0.0, 1.25)),
      ("fpp", "from_template", (False, True)),
      ("model", "image_precision",
       ("auto", "highest", "high", "default", "bfloat16")),
      ("model", "text_precision", ("highest", "high", "default", "bfloat16")),
      ("data", "source", ("files", "tfds")),
      (None, "memory_gb", (1e-3, 64.0)),
      (None, "linearisation", ("auto", "vjp", "jacobian")))
  def test_values_in_range(self, part, name, values):
    for value in values:
      experiment = config.ExperimentConfig()
      setattr(getattr(experiment, part) if part else experiment, name, value)
      config.validate(experiment)

  def test_too_few_views_for_the_selection(self):
    experiment = config.ExperimentConfig()
    experiment.views.number = 8
    config.validate(experiment)  # every method's own share may be larger
    experiment.method.selection_fraction = 0.1
    with self.assertRaisesRegex(ValueError, "large enough to keep one of 8"):
      config.validate(experiment)

  def test_names_of_the_fields_of_sections(self):
    self.assertEqual(
        config.field_names("stream", "views.seed", without=(
            "stream.seed", "stream.imbalance")),
        ("config.views.seed", "config.stream.order", "config.stream.orders",
         "config.stream.outlier_share", "config.stream.corrupted_share"))
    # A section and not what begins like it.
    self.assertNotIn("config.methods", config.field_names("method"))
    self.assertIn("config.method.soc.delta", config.field_names("method"))

  def test_every_field_is_described(self):
    rows = config.describe(config.ExperimentConfig())
    self.assertIn(
        ("config.fpp.num_steps", 1000, "number of steps of AdamW"), rows)
    self.assertTrue(all(about for _, _, about in rows))
    count = lambda c: sum(
        count(getattr(c, f.name)) if dataclasses.is_dataclass(
            getattr(c, f.name)) else 1 for f in dataclasses.fields(c))
    self.assertLen(rows, count(config.ExperimentConfig()))

  @parameterized.parameters(float("nan"), float("inf"), -float("inf"))
  def test_no_number_is_nan_or_infinite(self, value):
    names = [field.name for field in config.fields(config.ExperimentConfig())
             if float in (field.kind, *typing.get_args(field.kind))]
    self.assertGreater(len(names), 40)
    for name in names:
      experiment = config.ExperimentConfig()
      field, = (one for one in config.fields(experiment) if one.name == name)
      setattr(field.part, field.key, value)
      with self.assertRaisesRegex(
          ValueError, f"^--{name} is {value}, expected a finite number"):
        config.check(experiment)

  @parameterized.product(
      part=("stream", "fpp", "posterior", "metrics"),
      value=(-1, 2**32, 10**30))
  def test_seeds_that_cannot_be_drawn_from(self, part, value):
    experiment = config.ExperimentConfig()
    getattr(experiment, part).seed = value
    with self.assertRaisesRegex(
        ValueError, rf"^--config\.{part}\.seed is {value}, expected from 0 "):
      config.validate(experiment)

  def test_seeds_of_views(self):
    experiment = config.ExperimentConfig()
    for seed in (-1, 2**32 - 1, 1 - 2**32):
      experiment.views.seed = seed
      config.validate(experiment)
    for seed in (2**32, -2**32, 10**30):
      experiment.views.seed = seed
      with self.assertRaisesRegex(
          ValueError, rf"^--config\.views\.seed is {seed}, expected from 1 - "):
        config.validate(experiment)

  @parameterized.parameters(3, 0.5, True, object)
  def test_names_that_are_none(self, value):
    experiment = config.ExperimentConfig()
    experiment.data.name = value
    with self.assertRaisesRegex(ValueError, "^--config.data.name is .* names"):
      config.check(experiment)

  @parameterized.parameters("-" * 9000 + "1", "(1," * 3000, "[" * 9000)
  def test_texts_that_are_nested_deeply_are_names(self, text):
    experiment = config.ExperimentConfig()
    experiment.data.name = (text.replace(",", ""),)
    config.check(experiment)
    self.assertEqual(experiment.data.name, (text.replace(",", ""),))

  def test_methods_of_ones_own_have_no_nan(self):
    @dataclasses.dataclass(frozen=True)
    class Mine:
      alpha: float = float("nan")

    experiment = config.ExperimentConfig(methods={"mine": Mine()})
    with self.assertRaisesRegex(ValueError, r"\['mine'\]\.alpha is nan"):
      config.validate(experiment)
    experiment.methods = {"mine": Mine(float("inf"))}
    config.validate(experiment)

  @parameterized.parameters(
      ("views", "seed", 1.0, "a whole number"),
      ("views", "seed", True, "a whole number"),
      ("views", "seed", None, "a whole number"),
      ("views", "min_area", float("nan"), "a finite number"),
      ("views", "max_area", "1", "a finite number"),
      ("method", "weight", float("inf"), "a finite number or none"),
      ("method", "num_steps", 2.5, "a whole number or none"),
      ("views", "augmix", 1, "true or false or none"),
      ("data", "split", None, "a text"),
      ("data", "root", 3, "a text or none"),
      ("method", "name", ["tpt"], "names"),
      ("method", "name", "tpt", "names"))
  def test_values_of_another_type_are_named(self, part, name, value, expected):
    experiment = config.ExperimentConfig()
    setattr(getattr(experiment, part), name, value)
    with self.assertRaises(ValueError) as caught:
      config.validate(experiment)
    self.assertEqual(
        str(caught.exception),
        f"--config.{part}.{name} is {value!r}, expected {expected}")

  def test_whole_numbers_are_numbers(self):
    experiment = config.ExperimentConfig()
    experiment.method.weight = 30
    config.validate(experiment)


class TextTest(parameterized.TestCase):

  @parameterized.parameters(
      ("1e-3", float, 1e-3), ("-2", float | None, -2.0), ("12", int, 12),
      ("none", int | None, None), ("None", float | None, None),
      ("", str | None, None), ("none", str, "none"), ("False", bool, False),
      ("1", bool, True))
  def test_values(self, text, annotation, expected):
    value = config.parse(text, annotation)
    self.assertEqual(value, expected)
    self.assertIs(type(value), type(expected))

  @parameterized.parameters(
      ("nan", float, "a finite number"),
      ("-inf", float | None, "a finite number or none"),
      ("none", float, "a finite number"), ("1.0", int, "a whole number"),
      ("yes", bool, "true or false"), ("", int, "a whole number"))
  def test_what_is_no_value(self, text, annotation, expected):
    with self.assertRaises(ValueError) as caught:
      config.parse(text, annotation)
    self.assertEqual(str(caught.exception), f"{text!r} is not {expected}")

  @parameterized.parameters(
      ("a,b", ["a", "b"]), (" a , b c ", ["a", "b c"]), ("", []),
      ('"a, b",c', ["a, b", "c"]), ('a, "b, c"', ["a", "b, c"]),
      ("tom's", ["tom's"]), ('a "b"', ['a "b"']), ("a,", ["a", ""]))
  def test_lists(self, text, expected):
    self.assertEqual(config.split(text), expected)

  @parameterized.parameters('"a', '"a"b', '"a",b"c"d\n"')
  def test_what_is_no_list(self, text):
    with self.assertRaisesRegex(ValueError, "separate them by commas, and put"):
      config.split(text)

  def test_fields(self):
    fields = {field.name: field for field in config.fields(
        config.ExperimentConfig())}
    weight, name = fields["config.method.weight"], fields["config.data.name"]
    self.assertEqual((weight.value, weight.kind, weight.may_be_none,
                      weight.is_path), (None, float | None, True, False))
    self.assertEqual((name.kind, name.may_be_none, name.is_path),
                     (tuple[str, ...], False, True))
    self.assertEqual(fields["config.batch_size"].value, 8)


if __name__ == "__main__":
  absltest.main()
