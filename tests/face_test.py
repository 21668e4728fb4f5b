"""What `import jaxcal` gives: everything public, and nothing before its use."""

import contextlib
import importlib
import io
import pathlib
import re
import subprocess
import sys
import textwrap

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

import jaxcal
from jaxcal import lazy

_PACKAGE = pathlib.Path(jaxcal.__file__).resolve().parent
# `cli` is no library: its modules define flags when they are imported.
_ROOMS = sorted(path.parent.name for path in _PACKAGE.glob("*/__init__.py")
                if path.parent.name != "cli")
_HEAVY = ("jax", "numpy", "scipy", "flax", "transformers", "matplotlib",
          "tensorstore", "sklearn", "absl", "ml_collections")


def _in_a_fresh_process(code):
  return subprocess.run(
      [sys.executable, "-c", code], cwd=_PACKAGE.parent, check=True,
      capture_output=True, text=True).stdout


class FaceTest(parameterized.TestCase):

  def test_the_package_and_its_rooms_load_nothing(self):
    code = textwrap.dedent(f"""
        import sys
        import jaxcal
        assert jaxcal.__version__ and len(dir(jaxcal)) > 10
        for room in {_ROOMS!r}:
          assert dir(getattr(jaxcal, room))
        loaded = [name for name in {_HEAVY!r} if name in sys.modules]
        own = {{name for name in sys.modules if name.startswith("jaxcal")}}
        print(loaded, sorted(own))
        jaxcal.losses.orthogonality
        print("jax" in sys.modules)
        """)
    own = sorted({"jaxcal", "jaxcal.lazy", "jaxcal.spelling"} | {
        f"jaxcal.{room}" for room in _ROOMS})
    self.assertEqual(_in_a_fresh_process(code), f"[] {own}\nTrue\n")

  def test_every_public_name_is_there(self):
    self.assertEqual(dir(jaxcal), sorted(jaxcal.__all__))
    for name in jaxcal.__all__:
      self.assertIsNotNone(getattr(jaxcal, name), name)
    for name in ("Conventions", "Predictions", "Tda", "predict", "task_of"):
      self.assertEqual(getattr(jaxcal, name).__name__, name)
    self.assertContainsSubset(_ROOMS, jaxcal.__all__)

  def test_a_public_name_is_no_module_of_another_meaning(self):
    """Or it would change once that module is imported."""
    modules = {path.stem for path in _PACKAGE.glob("*.py")} | {
        path.parent.name for path in _PACKAGE.glob("*/__init__.py")}
    for name in modules & set(jaxcal.__all__):
      self.assertIs(getattr(jaxcal, name),
                    importlib.import_module(f"jaxcal.{name}"))

  @parameterized.parameters(
      ("Predictons", "did you mean predictions or Predictions"),
      ("conventions", "did you mean Conventions?"),
      ("metric", "did you mean metrics?"),
      ("xyz", "it has: ATpt, ATptInverted, Boost"))
  def test_an_unknown_name_says_what_is_near(self, name, message):
    with self.assertRaises(AttributeError) as caught:
      getattr(jaxcal, name)
    self.assertStartsWith(str(caught.exception), f"jaxcal has no {name!r}; ")
    self.assertIn(message, str(caught.exception))
    self.assertFalse(hasattr(jaxcal, name))

  def test_the_lines_of_the_docstring(self):
    rng = np.random.default_rng(0)
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
    text, images = unit(rng.normal(size=(3, 8))), unit(rng.normal(size=(40, 8)))
    labels, logits = rng.integers(0, 3, 40), 100 * images @ text.T
    lines = re.findall(
        r"(?m)^  ((?:import|task|methods|predictions|print).*)$",
        jaxcal.__doc__)[:6]
    self.assertLen(lines, 6)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
      exec("\n".join(lines), {
          "logits": logits, "labels": labels, "image_features": images,
          "text_features": text})
    accuracy = f"| {100 * (logits.argmax(1) == labels).mean():.1f} ["
    self.assertGreaterEqual(
        printed.getvalue().count(accuracy), 2, printed.getvalue())
    self.assertIn("| tda - zero_shot |", printed.getvalue())

  def test_the_docstring_names_every_room(self):
    named = re.findall(r"(?m)^  (\w+)  +", jaxcal.__doc__)
    self.assertSameElements(named, [*_ROOMS, "predictions", "cli"])


class RoomsTest(parameterized.TestCase):

  @parameterized.parameters(_ROOMS)
  def test_a_room_has_its_modules(self, room):
    package = importlib.import_module(f"jaxcal.{room}")
    folder = _PACKAGE / room
    here = {path.stem for path in folder.glob("*.py")} | {
        path.parent.name for path in folder.glob("*/__init__.py")}
    self.assertEqual(package.__all__, sorted(here - {"__init__"}))
    self.assertEqual(dir(package), package.__all__)
    for name in package.__all__:
      self.assertIs(getattr(package, name),
                    importlib.import_module(f"jaxcal.{room}.{name}"))
    self.assertTrue(package.__doc__)

  def test_an_unknown_module_says_what_is_near(self):
    with self.assertRaisesRegex(
        AttributeError, "jaxcal.losses has no 'entropies'; did you mean entr"):
      jaxcal.losses.entropies
    with self.assertRaisesRegex(ImportError, "cannot import name 'nothing'"):
      exec("from jaxcal.losses import nothing")


class LazyTest(absltest.TestCase):

  def test_what_goes_wrong_within_a_module_is_not_hidden(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    (folder / "broken_one.py").write_text("import nothing_of_this_name\n")
    sys.path.insert(0, str(folder))
    self.addCleanup(sys.path.remove, str(folder))
    get, names = lazy.attributes("some", {
        "one": ("broken_one", None), "two": ("math", "tau_two")})
    self.assertEqual(names(), ["one", "two"])
    with self.assertRaisesRegex(ModuleNotFoundError, "nothing_of_this_name"):
      get("one")
    with self.assertRaisesRegex(AttributeError, "'math' has no attribute"):
      get("two")


if __name__ == "__main__":
  absltest.main()
