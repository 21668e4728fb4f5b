"""Who may import whom: read from the sources, and seen in a fresh process."""

import ast
import functools
import pathlib
import subprocess
import sys

from absl.testing import absltest
from absl.testing import parameterized

from jaxcal import config

_ROOT = pathlib.Path(__file__).resolve().parents[1]

# Each room, and the rooms that it may import; itself is always allowed, and so
# are `precision`, which every product needs, `compiled`, for any function of
# arrays, `pytrees`, for dataclasses of them, `lazy`, with which a room's
# __init__.py imports its modules, and `spelling`, for errors on names.
_MAY_IMPORT = {
    "__main__": {"cli"},
    "compilation_cache": set(),
    "compiled": set(),
    "last_words": {"storage"},
    "lazy": set(),
    "peers": {"sharding", "storage"},
    "spelling": set(),
    "precision": set(),
    "pytrees": set(),
    "stages": set(),
    "typing": set(),
    "config": set(),
    "config_choice": {"adapt", "clip", "config", "data", "predictions",
                      "report", "stages", "storage"},
    "config_file": {"config"},
    "config_inputs": {"adapt", "clip", "config", "data", "features",
                      "memory", "posterior", "tasks", "tuning"},
    "config_methods": {"adapt", "config", "config_choice", "data", "storage"},
    "config_record": {"adapt", "clip", "config", "config_choice", "config_file",
                      "config_inputs", "data", "posterior", "provenance",
                      "tuning"},
    "config_runs": {"adapt", "clip", "config", "config_inputs", "data",
                    "memory", "posterior", "predictions", "run", "runs",
                    "stages", "streams", "tuning"},
    "config_sweep": {"adapt", "clip", "config", "config_inputs",
                     "config_methods", "posterior", "sweep"},
    "config_tuning": {"clip", "config", "config_inputs", "data", "tuning"},
    "printing": set(),
    "progress": set(),
    "provenance": set(),
    "storage": {"typing"},
    "losses": {"typing"},
    "metrics": {"typing"},
    "clip": {"typing", "storage"},
    "data": {"typing", "storage"},
    "posterior": {"typing", "storage"},
    "recalibration": {"typing"},
    "conformal": {"typing", "metrics"},
    "predictions": {"typing", "storage"},
    "parts": {"typing", "storage"},
    "sharding": {"typing"},
    "adapt": {"typing", "losses", "clip", "posterior", "stages"},
    "tuning": {"typing", "losses", "clip", "data", "memory", "sharding",
               "stages", "storage"},
    "memory": set(),
    "features": {"typing", "clip", "data", "memory", "provenance", "sharding",
                 "storage"},
    "testbed": {"typing", "clip", "data"},
    "report": {"typing", "conformal", "metrics", "predictions", "provenance",
               "recalibration", "stages", "storage"},
    "tasks": {"typing", "adapt", "clip", "testbed"},
    "outputs": {"typing", "adapt", "features", "parts", "predictions", "tasks"},
    "streams": {"typing", "adapt", "features", "outputs", "parts", "sharding",
                "stages", "storage", "tasks"},
    "run": {"typing", "adapt", "clip", "data", "features", "memory", "outputs",
            "parts", "predictions", "sharding", "stages", "storage", "streams",
            "tasks"},
    "runs": {"adapt", "data", "parts", "predictions", "run", "sharding",
             "stages", "storage", "streams"},
    "plan": {"adapt", "features", "parts", "report", "runs", "streams",
             "tuning"},
    "sweep": {"adapt", "config"},
    "listing": {"adapt", "config", "config_file", "data", "recalibration",
                "testbed", "tuning"},
}
_MAY_IMPORT["cli"] = set(_MAY_IMPORT) - {"__main__"}
# Single modules that may import more than the rest of their room.
_MAY_ALSO_IMPORT = {
    "recalibration/predicted.py": {"predictions", "stages"},
    # What is a loss in training is a calibrator after it.
    "recalibration/sals.py": {"losses"},
    "recalibration/procal.py": {"metrics"},
    "conformal/predicted.py": {"predictions"},
    "report/few_shot.py": {"tuning"},
    "report/diagnosis.py": {"adapt"},
    "report/sweeps.py": {"adapt", "config", "sweep"},
    "adapt/prompt/pretraining.py": {"storage"},
    # Behind one name stands any kind of image set.
    "data/load.py": {"features", "testbed", "tuning"},
    "features/pooled.py": {"parts"},
    "report/posterior.py": {"posterior"},
    # Figures of a run are called after fields of its config.
    "storage/output_folder.py": {"config"},
    "tuning/fit.py": {"features"},
    "tuning/images.py": {"features", "parts"},
    "tuning/saved.py": {"predictions"},
    "tuning/vocabulary.py": {"parts"},
    # What the posterior's users call: from images and a model to predictions.
    "posterior/inputs.py": {"clip", "data", "features", "memory", "tasks"},
    "posterior/head.py": {"adapt", "clip"},
    "posterior/fit.py": {"adapt", "clip", "data", "features", "memory",
                         "metrics", "parts", "provenance", "sharding"},
    "posterior/select.py": {"clip", "data", "features", "memory",
                            "predictions"},
}
# Those of them that no module of their room and of these others may import.
_ABOVE = ("recalibration/predicted.py", "conformal/predicted.py",
          "data/load.py")
# Rooms that may import what is above the posterior.
_ABOVE_ALL = ("cli", "config_inputs", "config_record", "config_runs",
              "config_sweep")
# What a room may use from outside, where the rule is stricter than setup.cfg.
_ONLY = {
    "config": {"ast", "collections", "csv", "dataclasses", "functools", "math",
               "os", "re", "types", "typing"},
    "lazy": {"collections", "importlib", "typing"},
    "spelling": {"collections", "difflib"},
    "compiled": {"collections", "functools", "jax", "typing"},
    "pytrees": {"dataclasses", "jax", "typing"},
    "precision": {"collections", "contextlib", "functools", "jax", "typing"},
    "losses": {"collections", "jax", "math", "numpy", "typing"},
    "metrics": {"collections", "functools", "jax", "math", "numpy", "typing"},
    "posterior": {"collections", "contextlib", "functools", "hashlib", "io",
                  "jax", "json", "math", "numpy", "optax", "os", "pathlib",
                  "torch", "typing", "zipfile"},
}
# Packages with one home each. `testbed.train` is a program of its own.
_HOMES = {
    "transformers": {"clip"},
    "tensorflow_datasets": {"data"},
    "tensorstore": {"features"},
    "huggingface_hub": {"clip"},
    "ml_collections": {"cli"},
    "matplotlib": {"report"},
    "jinja2": {"report"},
    "pyarrow": {"data", "report"},
    "sklearn": {"testbed"},
    "absl.flags": {"cli", "testbed"},
    # Only to read released factors, and without unpickling.
    "torch": {"posterior"},
}
_NEVER = {"tensorflow", "clu", "wandb", "pickle", "pandas"}
# What the command has no use for.
_ARRAYS = {"numpy", "scipy", "optax", "flax", "chex"}
# Classes of `jaxcal.config`; configs of towers are others.
_CONFIGS = {name for name in vars(config) if name.endswith("Config")}
# What importing any library module must not load.
_HEAVY = ("transformers", "matplotlib", "jinja2", "pyarrow", "sklearn", "torch",
          "tensorflow", "tensorflow_datasets", "tensorstore",
          "ml_collections")


@functools.cache  # every rule looks at every file
def _nodes(path):
  return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def _imports(path):
  """Dotted names that a file imports, `from a import b` as a.b and a."""
  for node in _nodes(path):
    if isinstance(node, ast.Import):
      yield from (name.name for name in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{path}: relative import"
      yield node.module
      yield from (f"{node.module}.{name.name}" for name in node.names)


def _files():
  for path in sorted((_ROOT / "jaxcal").rglob("*.py")):
    room = path.relative_to(_ROOT / "jaxcal").parts[0].removesuffix(".py")
    if room != "__init__":
      yield path, room


def _rooms_used(path):
  known = set(_MAY_IMPORT)
  names = (name.split(".") for name in _imports(path))
  return {n[1] for n in names if n[0] == "jaxcal" and len(n) > 1} & known


class ArchitectureTest(parameterized.TestCase):

  def test_the_command_holds_no_arithmetic(self):
    """`/` joins paths, `+` texts and lists; nothing is counted."""
    counting = (ast.Sub, ast.Mult, ast.FloorDiv, ast.Mod, ast.Pow, ast.MatMult)
    for path in sorted((_ROOT / "jaxcal" / "cli").glob("*.py")):
      for node in _nodes(path):
        if isinstance(node, (ast.BinOp, ast.AugAssign)):
          self.assertNotIsInstance(
              node.op, counting, f"{path}:{node.lineno}")
      self.assertFalse(
          _ARRAYS & {name.split(".")[0] for name in _imports(path)} or
          "jax.numpy" in set(_imports(path)), str(path))

  def test_a_config_stays_in_the_command(self):
    """What is of the config's room takes it; everything else plain values."""
    for path, room in _files():
      if room == "cli" or room.startswith("config"):
        continue
      imports = set(_imports(path))
      self.assertFalse({f"jaxcal.{room}" for room in _MAY_IMPORT
                        if room.startswith("config_")} - {
                            "jaxcal.config_file"} & imports, str(path))
      for node in _nodes(path):
        if isinstance(node, ast.arg) and node.annotation is not None:
          kind = ast.unparse(node.annotation)
          self.assertFalse(
              any(name in kind for name in _CONFIGS),
              f"{path}:{node.lineno}: {node.arg}: {kind}")
        if "jaxcal.config" in imports and isinstance(node, ast.arg):
          self.assertNotEqual(node.arg, "config", f"{path}:{node.lineno}")

  def test_every_room_has_a_rule(self):
    self.assertEqual({room for _, room in _files()}, set(_MAY_IMPORT))

  def test_imports_point_one_way(self):
    for path, room in _files():
      also = _MAY_ALSO_IMPORT.get(
          path.relative_to(_ROOT / "jaxcal").as_posix(), set())
      allowed = _MAY_IMPORT[room] | also | {
          room, "compiled", "lazy", "precision", "pytrees", "spelling"}
      self.assertLessEqual(_rooms_used(path), allowed, str(path))

  def test_what_may_import_more_is_above_all_of_that(self):
    for file in _ABOVE:
      others = _MAY_ALSO_IMPORT[file]
      own, module = file.removesuffix(".py").split("/")
      for path, room in _files():
        if room in {own, *others}:
          self.assertNotIn(
              f"jaxcal.{own}.{module}", set(_imports(path)), str(path))

  def test_what_knows_images_and_models_is_above_the_posterior(self):
    above = {f"jaxcal.posterior.{name}"
             for name in ("inputs", "head", "fit", "select")}
    for path, room in _files():
      where = path.relative_to(_ROOT / "jaxcal").as_posix()
      if where not in _MAY_ALSO_IMPORT and room not in _ABOVE_ALL:
        self.assertFalse(above & set(_imports(path)), str(path))

  def test_the_public_face_is_for_users(self):
    for path, _ in _files():
      names = [name.split(".") for name in _imports(path)]
      self.assertLessEqual(
          {name[1] for name in names if name[0] == "jaxcal" and name[1:]},
          set(_MAY_IMPORT), str(path))

  def test_strict_rooms_use_little_from_outside(self):
    for path, room in _files():
      if room in _ONLY:
        outside = {name.split(".")[0] for name in _imports(path)} - {"jaxcal"}
        self.assertLessEqual(outside, _ONLY[room], str(path))

  def test_packages_stay_in_their_homes(self):
    for path, room in _files():
      names = set(_imports(path))
      self.assertFalse({n.split(".")[0] for n in names} & _NEVER, str(path))
      for package, homes in _HOMES.items():
        used = any(n == package or n.startswith(package + ".") for n in names)
        self.assertTrue(not used or room in homes, f"{path}: {package}")

  def test_configs_know_only_the_dataclasses(self):
    for path in (_ROOT / "configs").glob("*.py"):
      self.assertLessEqual(_rooms_used(path), {"config"}, str(path))

  def test_library_modules_load_nothing_heavy(self):
    modules = [
        ".".join(path.relative_to(_ROOT).with_suffix("").parts)
        for path, room in _files()
        if room not in ("cli", "__main__")
        and path.stem not in ("__init__", "train")]
    code = (f"import sys, {', '.join(modules)}\n"
            f"print([m for m in {_HEAVY!r} if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], cwd=_ROOT, check=True,
                          capture_output=True, text=True)
    self.assertEqual(done.stdout.strip(), "[]")


if __name__ == "__main__":
  absltest.main()
