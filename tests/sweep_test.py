"""Plans of sweeps: values by type, the product, what shares a pass, names."""

from absl.testing import absltest
from absl.testing import parameterized

from jaxcal import sweep
from jaxcal.adapt import methods

_TYPES = {"method.name": tuple[str, ...], "method.weight": float | None,
          "views.seed": int, "views.augmix": bool, "data.template": str}


class SweepTest(parameterized.TestCase):

  @parameterized.parameters(
      ("method.weight=1,3.5,none", "method.weight", (1.0, 3.5, None)),
      ("config.views.seed=0,1", "views.seed", (0, 1)),
      ("views.augmix=true,False", "views.augmix", (True, False)),
      ("method.name=tpt, soc", "method.name", (("tpt",), ("soc",))),
      ("data.template=a {}.,the {}=x", "data.template", ("a {}.", "the {}=x")),
      ('data.template="a {}, a pet.", a "{}".', "data.template",
       ("a {}, a pet.", 'a "{}".')),
      ("views.augmix=1,0", "views.augmix", (True, False)))
  def test_values_have_the_type_of_their_field(self, text, name, values):
    axis = sweep.parse_axis(text, _TYPES)
    self.assertEqual(axis, (name, values))
    self.assertEqual([type(v) for v in axis.values], [type(v) for v in values])

  @parameterized.parameters(
      ("method.wight=1", "no field 'method.wight'; did you mean "
       r"method.weight .*\? choose from: data.template"),
      ("method.weight", "is not FIELD=VALUE,VALUE"),
      ("method.weight=", "is not FIELD=VALUE,VALUE"),
      ("method.weight=1,x", "'x' is not a finite number or none"),
      ("views.seed=1.5", "'1.5' is not a whole number"),
      ("views.augmix=yes", "'yes' is not true or false"),
      ("method.weight=1,", "a value is empty"),
      ("method.weight=nan", "'nan' is not a finite number"),
      ("method.weight=1,inf", "'inf' is not a finite number"),
      ('data.template="a {}, a pet', "put one that has a comma in it into"),
      ("method.weight=1,1.0", "has a value twice"))
  def test_bad_axes_are_refused(self, text, message):
    with self.assertRaisesRegex(ValueError, message):
      sweep.parse_axis(text, _TYPES)

  def test_product_changes_the_last_axis_fastest(self):
    axes = [sweep.Axis("a", (1, 2)), sweep.Axis("b", ("x", "y", "z"))]
    self.assertEqual(
        [(p["a"], p["b"]) for p in sweep.product(axes)],
        [(1, "x"), (1, "y"), (1, "z"), (2, "x"), (2, "y"), (2, "z")])
    with self.assertRaisesRegex(ValueError, "swept twice: a, a"):
      sweep.product([axes[0], axes[0]])

  @parameterized.parameters(
      ("tpt", {"weight": 3.0}, "tpt"),  # it has no weight
      ("soc", {"weight": 3.0, "delta": None}, "soc-weight=3"),
      ("soc", {"weight": 30.0, "delta": 0.85}, "soc"),  # the defaults
      ("soc", {"effective_weight": 2.0, "delta_quantile": 0.8},
       "soc-effective_weight=2-delta_quantile=0.8"),
      ("c_tpt", {"weight": 0.5, "delta": 0.1, "learning_rate": 1e-4},
       "c_tpt-learning_rate=0.0001-weight=0.5"),
      ("zero_shot", {"learning_rate": 1e-4, "num_steps": 2}, "zero_shot"),
      ("tpt", {"num_steps": 2}, "tpt-num_steps=2"),
      ("zero", {"selection_fraction": 0.2, "weight": 3.0},
       "zero-selection_fraction=0.2"),
      ("mta", {"learning_rate": 1e-4}, "mta"))
  def test_points_have_only_what_their_method_has(self, name, numbers, label):
    point = sweep.point(name, methods.method(name), numbers)
    self.assertEqual(point.label, label)
    if name == "zero_shot":
      self.assertEqual(point.numbers, {})

  def test_names_have_every_number_and_none_twice(self):
    name = lambda **numbers: sweep.point(
        "soc", methods.method("soc"), numbers).name
    self.assertEqual(
        name(), "soc-selection_fraction=0.1-learning_rate=0.005-"
        "weight_decay=0.01-num_steps=1-weight=30-delta=0.85")
    self.assertEqual(name(weight=30.0), name())
    # What another number stands for is none of the setting.
    self.assertEqual(
        name(effective_weight=2.0), "soc-selection_fraction=0.1-"
        "learning_rate=0.005-weight_decay=0.01-num_steps=1-"
        "effective_weight=2-delta=0.85")
    self.assertIn("weight=3.0000001-", name(weight=3.0000001))
    self.assertNotEqual(name(weight=3.0000001), name(weight=3.0))

  def test_variants_keep_apart_what_needs_a_pass_of_its_own(self):
    points = sweep.product([
        sweep.Axis("method.weight", (1, 3)), sweep.Axis("views.seed", (0, 1))])
    self.assertEqual(
        sweep.variants(points, ["method.weight"]),
        [({"views.seed": 0}, [{"method.weight": 1}, {"method.weight": 3}]),
         ({"views.seed": 1}, [{"method.weight": 1}, {"method.weight": 3}])])

  def test_fields_that_no_method_has(self):
    points = [sweep.point(name, methods.method(name), {})
              for name in ("tpt", "c_tpt")]
    self.assertEqual(
        sweep.unused(points, ["weight", "delta", "learning_rate"]), ["delta"])


if __name__ == "__main__":
  absltest.main()
