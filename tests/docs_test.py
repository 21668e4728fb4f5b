"""Every command and code block of the README and of docs/ runs."""

import contextlib
import gc
import io
import os
import pathlib
import re
import subprocess
import sys
import zipfile

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np
from PIL import Image
import pytest

from jaxcal.data import catalogue
from jaxcal.testbed import shipped
from tests.cli import command
from tests.data import miniatures

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_PAGES = {path.relative_to(_ROOT).as_posix(): path.read_text(encoding="utf-8")
          for path in (_ROOT / "README.md", _ROOT / "CONTRIBUTING.md",
                       *(_ROOT / "docs").glob("*.md"))}
# How many scripts a page has, but for the README.
_NUM_SCRIPTS = {
    "docs/arrays.md": 1,
    "docs/bayesvlm.md": 3,
    "docs/conformal.md": 1,
    "docs/costs.md": 1,
    "docs/data.md": 1,
    "docs/devices.md": 1,
    "docs/few_shot.md": 5,
    "docs/images.md": 3,
    "docs/recalibration.md": 2,
    "docs/regularisers.md": 4,
    "docs/results.md": 7,
    "docs/sweeps.md": 2,
    "docs/test_time.md": 4,
    "docs/testbed.md": 2,
    "docs/zoo.md": 1,
}
# Few images and views; otherwise the commands are those that are printed.
_SMALL = ("--config.data.limit=3 --config.data.name=digits "
          "--config.views.number=8 "
          "--config.method.selection_fraction=0.25 "
          "--config.metrics.num_resamples=20")
# R-TPT has more neighbours than there are views then.
_FEW_VIEWS = (("--config.data.limit=250",
               "--config.method.r_tpt.num_neighbours=5"),)
_STORED = ("--config.data.limit=3 --config.data.name=digits "
           "--config.views.number=8")

# The same for the commands around a posterior, in the order of printing.
_POSTERIOR = (
    ("--config=configs/bayesvlm.py",
     "--config=configs/bayesvlm.py --config.data.name=shapes "
     "--config.temperature.limit=20"),
    ("posterior fit", "posterior fit --num_pairs=40"),
    ("evaluate --config=configs/bayesvlm.py",
     "evaluate --config=configs/bayesvlm.py --config.data.limit=3 "
     "--config.metrics.num_resamples=20"),
    ("--config.data.limit=500",
     "--config.data.limit=5 --config.metrics.num_resamples=20"),
    ("--budgets=10,25,50,100",
     "--budgets=2,3 --pool_limit=8 --seeds=1 --epochs=2 --samples=4"),
)
# And those around few-shot tuning.
_FEW_SHOT = (
    ("jaxcal tune --config=configs/dor_base_to_new.py",
     "jaxcal tune --config=configs/dor_base_to_new.py --config.data.limit=40 "
     "--config.data.name=shapes --config.tune.name=coop "
     "--config.tune.num_shots=1 --config.tune.num_seeds=1 "
     "--config.tune.num_epochs=2 --config.tune.num_outliers=20 "
     "--config.metrics.num_resamples=20"),
    ("jaxcal evaluate --config=configs/dor_base_to_new.py",
     "jaxcal evaluate --config=configs/dor_base_to_new.py "
     "--config.data.limit=5 --config.metrics.num_resamples=20"),
)
# And of the run that gets prediction sets.
_SET_SIZES = (
    ("--config=configs/set_sizes.py",
     f"--config=configs/set_sizes.py {_SMALL} --config.temperature.limit=20"),
    ("--config.data.limit=3", "--config.data.limit=12"),
)
# What the commands that need weights and files from elsewhere must say.
_NEEDS_FILES = (r"no tar matches laion/00000\.tar",
                r"no hessians/hessian_CLIP-ViT-B-32.*/A_img_analytic\.pt")
# Long runs, whose results lie in benchmarks/results: not done again here.
_RECORDED = ("configs/zoo.py", "--store=full", "data.store=full",
             "configs/testbed.py", "image_precision=bfloat16",
             "data.name=caltech101", "effective_weight=0.01,0.02",
             "configs/stress.py")


def _blocks(page, language):
  return re.findall(rf"```{language}\n(.*?)```", _PAGES[page], re.DOTALL)


def _scripts(page):
  """The page's commands, but for those that install something."""
  return [block for block in _blocks(page, "bash")
          if "pip install" not in block]


def _shortened(script):
  """The script with few images, and with paths that exist here."""
  for told, changes in (("bayesvlm", _POSTERIOR), ("dor_", _FEW_SHOT),
                        ("set_sizes", _SET_SIZES), ("r_tpt", _FEW_VIEWS)):
    for printed, run in changes if told in script else ():
      script = script.replace(printed, run)
  # No download: the shipped weights stand in for those of the hub.
  script = script.replace(
      "openai/clip-vit-base-patch16", str(shipped.folder()))
  script = script.replace("--config.data.limit=0", "").replace(
      "--sweep=method.weight=1,3,10,30", "--sweep=method.weight=1,3")
  script = script.replace(
      "--config.data.name=eurosat",
      "--config.data.name=eurosat --config.data.partial=True")
  # Storing features takes no flags of methods and measures.
  return re.sub(
      r"(features )?--config=configs/quickstart.py", lambda found: (
          f"{found[0]} {_STORED if found[1] else _SMALL}"), script)


def _commands(script):
  """The arguments of each `jaxcal` of a script, as a shell reads them."""
  script = "jaxcal() { printf '%s\\0' \"$@\" $'\\n'; }\n" + script
  read = subprocess.run(["bash", "-euc", script], check=True,
                        capture_output=True, text=True).stdout
  return [line.split("\0")[:-1] for line in read.split("\n\0")[:-1]]


def _in_a_shell(script, folder):
  """Runs a script with `jaxcal` standing for this checkout's command."""
  path = folder / "jaxcal"
  path.write_text(
      f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(_ROOT)!r})\n"
      "from jaxcal.cli import main\nsys.exit(main.run())\n")
  path.chmod(0o755)
  environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
  return subprocess.run(["bash", "-euc", script], cwd=folder, check=True,
                        capture_output=True, text=True, env=environment).stdout


def _anchors(path):
  """Of its headings, as they are made on the pages of a repository."""
  return [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
          for heading in re.findall(
              r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.M)]


class DocsTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)
    (self.folder / "configs").symlink_to(_ROOT / "configs")

  def tearDown(self):
    super().tearDown()
    # Each page compiles more than most files: see tests/conftest.py.
    jax.clear_caches()
    gc.collect()

  def test_install_commands_are_those_of_continuous_integration(self):
    script = re.sub(r"\\\n\s*", "", (_ROOT / ".ci" / "run").read_text())
    script = script.replace("pip install -q", "pip install")
    commands = [block.strip() for page in _PAGES
                for block in _blocks(page, "bash") if "pip install" in block]
    self.assertLen(commands, 2)
    for printed in commands:
      self.assertIn(printed, script)

  def test_no_script_and_no_code_is_left_out(self):
    self.assertEqual(
        {page: len(_scripts(page)) for page in _PAGES if _scripts(page)},
        _NUM_SCRIPTS | {"README.md": 1})
    self.assertEqual(
        {page: len(_blocks(page, "python")) for page in _PAGES
         if _blocks(page, "python")},
        # Those of own_method.md run in own_method_test.py, those of
        # recalibration.md in recalibration/page_test.py.
        {"README.md": 3, "docs/bayesvlm.md": 2, "docs/conformal.md": 2,
         "docs/few_shot.md": 1,
         "docs/library.md": 8,
         # Runs in metrics/page_test.py.
         "docs/metrics.md": 1,
         # Run in own_pages_test.py.
         "docs/own_images.md": 3,
         "docs/own_method.md": 4,
         "docs/own_recalibrator.md": 3, "docs/own_regulariser.md": 3,
         "docs/recalibration.md": 2,
         "docs/regularisers.md": 1,
         # Runs in streams_test.py.
         "docs/test_time.md": 2})
    for page, text in _PAGES.items():
      fences = re.findall(r"^ *```(.*)$", text, re.MULTILINE)
      self.assertContainsSubset(fences[::2], ["bash", "python"], page)
      self.assertEqual(set(fences[1::2]) - {""}, set(), page)

  @parameterized.named_parameters(
      (pathlib.Path(page).stem, page) for page in _NUM_SCRIPTS)
  @pytest.mark.slow
  def test_commands(self, page):
    images = self.folder / "path" / "to" / "images" / "cat"
    images.mkdir(parents=True)
    Image.fromarray(np.zeros((50, 60, 3), np.uint8)).save(images / "1.png")
    self._write_eurosat(self.folder / "path" / "to" / "datasets")
    np.save(self.folder / "text_features.npy",
            1 + np.random.default_rng(0).normal(size=(6, 8)))
    for script in _scripts(page):
      if any(done in script for done in _RECORDED):
        self._assert_understood(script)
      elif "laion/" in script:
        self._assert_needs_files(script)
      elif "jaxcal data" in script:
        self._assert_looked_at(script)
      elif "--help" in script:
        self.assertIn("--config.views.seed", _in_a_shell(script, self.folder))
      else:
        self._assert_runs(script)

  def _assert_runs(self, script):
    for arguments in _commands(_shortened(script)):
      status, printed, error = self._jaxcal(*arguments)
      self.assertEqual(status, 0, error)
    self.assertRegex(
        printed, r"\| soc|: soc|\| shapes|zero_shot\+tangent|\| epig_online|"
        r"\| coop\+dor")

  @pytest.mark.slow
  def test_commands_of_the_readme(self):
    # Enough images that a fifth of them can be fitted to.
    small = _SMALL.replace("limit=3", "limit=20")
    [script] = _scripts("README.md")
    printed = []
    for arguments in _commands(script.replace(
        "--config=quickstart", f"--config=quickstart {small}")):
      status, text, error = self._jaxcal(*arguments)
      self.assertEqual(status, 0, error)
      printed.append(text)
    methods, evaluated, recalibrated = printed
    for name in ("zero_shot", "tpt", "soc", "tda"):
      self.assertRegex(methods, rf"\b{name}\b")
    self.assertIn("| soc", evaluated)
    self.assertIn("temperature", recalibrated)

  def _jaxcal(self, *arguments):
    return command.here(*arguments, folder=self.folder)

  def _assert_understood(self, script):
    """All flags are read and checked before an image set is looked for."""
    for arguments in _commands(script):
      status, _, error = self._jaxcal(
          *arguments, "--config.data.name=nowhere")
      self.assertEqual(status, 2)
      self.assertRegex(error, "nowhere|full.sha(des|pes)|split_zhou_Caltech101")

  def _assert_needs_files(self, script):
    """The shipped weights stand in for those of the hub; nothing else does."""
    commands = _commands(
        re.sub(r"laion/CLIP[^ \n]*", str(shipped.folder()), script))
    self.assertLen(commands, len(_NEEDS_FILES))
    for arguments, message in zip(commands, _NEEDS_FILES):
      status, _, error = self._jaxcal(*arguments)
      self.assertEqual(status, 2)
      self.assertRegex(error, message)

  def _assert_looked_at(self, script):
    """EuroSAT in miniature is found to have too few images, and no more."""
    downloads = self.folder / "path" / "to" / "downloads"
    datasets = self.folder / "path" / "to" / "datasets"
    (datasets / "eurosat").rename(downloads)
    (downloads / "2750").rename(downloads / "made")
    with zipfile.ZipFile(downloads / "EuroSAT.zip", "w") as archive:
      for path in (downloads / "made").iterdir():
        archive.write(path, f"2750/{path.name}")
    done = [self._jaxcal(*arguments) for arguments in _commands(script)]
    self.assertEqual([status for status, *_ in done], [0, 1, 1, 0])
    for _, printed, _ in done[1:3]:
      self.assertRegex(printed, r"eurosat: 3 findings$")
      self.assertLen(re.findall(r"number of images: ", printed), 3)
    self.assertRegex(done[3][1], "images is clean$")

  def _write_eurosat(self, root):
    rows = [[f"{number}.jpg", label, name] for number, (label, name) in
            enumerate(enumerate(catalogue.row("eurosat").class_names))]
    miniatures.split_file(root / "eurosat" / "split_zhou_EuroSAT.json",
                          test=rows)
    miniatures.images(root / "eurosat" / "2750", [row[0] for row in rows])

  @pytest.mark.slow
  def test_code_of_the_library(self):
    names = {}
    with contextlib.chdir(self.folder):
      for block in _blocks("docs/library.md", "python"):
        found, printed = self._executed(block)  # each runs on its own
        names |= found
    self.assertIn("my_model+temperature - my_model", names["said"].text)
    self.assertIn("num_bins is 15, was 20", printed)
    self.assertEqual(names["pull"].shape, (47, 512))
    self.assertEqual(names["predicted"].shape, (180, 18))
    self.assertEqual(names["probs"].shape, (2000, 10))
    self.assertGreater(names["soc"], 0)
    self.assertBetween(names["ece"], 0.05, 0.15)
    self.assertLess(names["floor"], 0.05)

  @pytest.mark.slow
  def test_code_of_prediction_sets(self):
    by_score, few = _blocks("docs/conformal.md", "python")
    names, printed = self._executed(by_score)
    self.assertEqual(names["sets"].shape, (1000, 10))
    self.assertRegex(printed, r"^(8[89]|9[012])\.\d% covered, \d\.\d\d classes")
    names, _ = self._executed(few)
    for name in ("by_probe", "by_transport"):
      self.assertEqual(names[name].shape, (20, 5))
      hits = np.asarray(names[name])[range(20), names["labels"][40:]]
      self.assertGreater(hits.mean(), 0.7)

  @pytest.mark.slow
  def test_code_of_few_shot_tuning(self):
    [block] = _blocks("docs/few_shot.md", "python")
    with contextlib.chdir(self.folder):
      names, printed = self._executed(block)
      written = sorted(path.name for path in pathlib.Path(
          "few_shot/shapes/coop+dor").iterdir())
    self.assertLen(names["seeds"], 3)
    self.assertEqual(printed.count("accuracy"), 3)
    self.assertEqual(written, [f"seed-{seed}.{ending}" for seed in (1, 2, 3)
                               for ending in ("json", "safetensors")])

  @pytest.mark.slow
  def test_code_of_the_regularisers(self):
    [block] = _blocks("docs/regularisers.md", "python")
    _, printed = self._executed(block)
    lines = printed.splitlines()
    self.assertLen(lines, 30)
    self.assertEqual(printed.count("100.0% of the labels"), 30)
    apart = {tuple(re.split(" and |: ", line)[:2]): float(
        re.search(r"(\S+) apart", line)[1]) for line in lines}
    table = re.findall(r"(?m)^\| ([\d.]+) \| (\..*) \|$",
                       _PAGES["docs/regularisers.md"])
    self.assertLen(table, 3)
    for effect, values in table:
      effect = str(float(effect))
      c_tpt = f"c_tpt {effect}"
      found = [apart[f"{name} {effect}", c_tpt] for name in (
          "o_tpt", "o_tpt_published", "soc", "a_tpt")]
      np.testing.assert_allclose(
          [*found, apart[c_tpt, "tpt"]], list(map(float, values.split(" | "))),
          atol=2e-4)

  @pytest.mark.slow
  def test_code_of_the_posterior(self):
    with contextlib.chdir(self.folder):
      for block in _blocks("docs/bayesvlm.md", "python"):
        names, printed = self._executed(block)
        self.assertIn("accuracy", printed)
    self.assertEqual(
        list(names["paths"]), ["before", *(
            f"{strategy}-{budget}-0" for strategy in ("random", "epig_online")
            for budget in (5, 10))])

  @pytest.mark.slow
  def test_code_of_the_readme(self):
    # Each block may use what those before it defined.
    names, printed = self._executed("\n".join(_blocks("README.md", "python")))
    for name in ("zero_shot", "tpt", "soc", "tda", "tpt_temperature", "mta",
                 "zero"):
      self.assertRegex(printed, rf"\b{name}\b")
    self.assertEqual(names["logits"].shape, (1000, 10))
    self.assertEqual(names["validation"]["tpt"].logits.shape, (300, 22))
    self.assertEqual(names["predictions"]["tda"].logits.shape, (100, 22))
    self.assertEqual(names["text"].shape, (22, names["views"].shape[-1]))

  def _executed(self, code):
    """What the code defines, and what it prints."""
    names, printed = {}, io.StringIO()
    with (contextlib.redirect_stdout(printed),
          jax.numpy_rank_promotion("allow")):  # the default
      exec(code, names)
    return names, printed.getvalue()

  def test_files_that_they_name_exist(self):
    named = 0
    module_of = r"python -m ((?:benchmarks|jaxcal|tests)[\w.]*)"
    for page, text in _PAGES.items():
      paths = re.findall(r"`((?:tests|configs|benchmarks|docs)/[^`*]+)`", text)
      paths += [module.replace(".", "/") + ".py"
                for module in re.findall(module_of, text)]
      for path in paths:
        self.assertTrue((_ROOT / path).exists(), f"{page}: {path}")
      named += len(paths)
    self.assertGreater(named, 20)

  def test_links_lead_to_files(self):
    for page, text in _PAGES.items():
      for link in re.findall(r"\]\((?!http)([^)]+)\)", text):
        name, _, anchor = link.partition("#")
        path = (_ROOT / page).parent / name if name else _ROOT / page
        self.assertTrue(path.exists(), f"{page}: {link}")
        if anchor:
          self.assertIn(anchor, _anchors(path), f"{page}: {link}")

  def test_what_belongs_to_an_item_of_a_list_is_seen_as_such(self):
    """By the site, too, which wants four spaces before a table or a block."""
    for page, text in _PAGES.items():
      self.assertNotRegex(text, r"(?m)^ {1,3}(\||```)", page)

  def test_every_page_is_listed(self):
    pages = {page.removeprefix("docs/") for page in _PAGES} - {
        "README.md", "CONTRIBUTING.md"}
    listed = re.findall(r"\]\((\w+\.md)\)", _PAGES["docs/index.md"])
    self.assertCountEqual(listed, pages - {"index.md"})


if __name__ == "__main__":
  absltest.main()
