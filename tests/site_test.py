"""The site of docs/: complete, built without a warning, asking for nothing."""

import contextlib
import functools
from html import parser
import http.server
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from urllib import parse

from absl.testing import absltest
from absl.testing import parameterized
import pytest

import jaxcal

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_LACKING = [name for name in ("mkdocs", "material", "mkdocstrings",
                              "latex2mathml") if not importlib.util.find_spec(
                                  name)]
_CHROMIUM = next(filter(None, map(shutil.which, (
    "chromium", "chromium-browser", "google-chrome"))), None)
# What a browser fetches by itself, or goes to when it is asked to.
_FETCHED = {"audio": "src", "embed": "src", "iframe": "src", "image": "href",
            "img": "src", "input": "src", "link": "href", "object": "data",
            "script": "src", "source": "src", "use": "href", "video": "src"}
_BEYOND = """() => document.documentElement.scrollWidth
    - document.documentElement.clientWidth"""
# Formulas, code and tables that are cut off, not scrolled.
_CUT = """() => [...document.querySelectorAll(
    "article pre, article table, article math")].filter((one) => {
  for (let box = one; box.tagName !== "ARTICLE"; box = box.parentElement) {
    if (/auto|scroll/.test(getComputedStyle(box).overflowX)) return false;
  }
  return one.getBoundingClientRect().right
      > document.documentElement.clientWidth + 0.5;
}).map((one) => one.outerHTML.slice(0, 120))"""


class _Page(parser.HTMLParser):
  """What a page fetches, links to, and can be linked to at."""

  def __init__(self, text):
    super().__init__()
    self.fetched, self.links, self.anchors, self.styles = [], [], set(), []
    self._in_style = False
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    named = dict(attrs)
    if named.get(_FETCHED.get(tag)):
      self.fetched.append(named[_FETCHED[tag]])
    self.fetched += [one.split()[0] for one in named.get(
        "srcset", "").split(",") if one.strip()]
    self.styles.append(named.get("style") or "")
    self._in_style = tag == "style"
    if tag == "a" and named.get("href"):
      self.links.append(named["href"])
    self.anchors |= {named.get("id"), named.get("name")}

  def handle_data(self, data):
    if self._in_style:
      self.styles.append(data)


def _fetched_by(style):
  """What a style sheet fetches."""
  return re.findall(r"url\(\s*['\"]?([^'\")]+)", style) + re.findall(
      r"@import\s+['\"]([^'\"]+)", style)


def _is_outside(address):
  return bool(parse.urlsplit(address).netloc)


class NavigationTest(absltest.TestCase):

  def test_has_every_page_and_every_room(self):
    listed = re.findall(
        r"(?m)^ +- (?:[^:\n]+: )?(\S+\.md)$",
        (_ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    modules = [name for name, (_, attribute) in jaxcal._EXPORTS.items()
               if attribute is None]
    self.assertCountEqual(listed, [
        "first_steps.md", "CONTRIBUTING.md", "CHANGELOG.md", "api/index.md",
        *(f"api/{name}.md" for name in modules),
        *(path.name for path in (_ROOT / "docs").glob("*.md")),
        *(f"notebooks/{path.stem}.md"
          for path in (_ROOT / "docs" / "notebooks").glob("*.ipynb"))])


@pytest.mark.slow
class SiteTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    if _LACKING:
      raise absltest.SkipTest(
          f"{', '.join(_LACKING)} not installed (the extra docs)")
    scratch = tempfile.TemporaryDirectory()
    cls.addClassCleanup(scratch.cleanup)
    cls.folder = pathlib.Path(scratch.name)
    cls.built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict",
         f"--site-dir={cls.folder}"], cwd=_ROOT, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(_ROOT),
                          "NO_MKDOCS_2_WARNING": "1"})
    cls.pages = {
        path.relative_to(cls.folder).as_posix(): _Page(path.read_text("utf-8"))
        for path in cls.folder.rglob("*.html")}

  def test_is_built_without_a_warning(self):
    self.assertEqual(self.built.returncode, 0, self.built.stderr)
    self.assertNotIn("WARNING", self.built.stderr)

  def test_asks_for_nothing_from_the_network(self):
    styles = {path.name: _fetched_by(path.read_text(encoding="utf-8"))
              for path in self.folder.rglob("*.css")}
    self.assertGreater(len(styles), 2)
    for name, page in self.pages.items():
      styles[name] = page.fetched + _fetched_by("\n".join(page.styles))
    for name, fetched in styles.items():
      self.assertEqual([one for one in fetched if _is_outside(one)], [], name)

  def test_all_that_is_linked_is_there(self):
    for name, page in self.pages.items():
      if name == "404.html":  # whose links begin at the root of a server
        continue
      for link in {*page.links, *page.fetched}:
        address = parse.urlsplit(link)
        if address.scheme or address.netloc:
          continue
        path = os.path.normpath(os.path.join(
            os.path.dirname(name), parse.unquote(address.path))
        ) if address.path else name
        self.assertTrue((self.folder / path).is_file(), f"{name}: {link}")
        if address.fragment and path in self.pages:
          self.assertIn(parse.unquote(address.fragment),
                        self.pages[path].anchors, f"{name}: {link}")

  def test_reference_has_all_that_is_public(self):
    face = (self.folder / "api" / "index.html").read_text(encoding="utf-8")
    for name, (module, attribute) in jaxcal._EXPORTS.items():
      if attribute is None:
        self.assertIn(f"api/{name}.html", self.pages)
      else:
        self.assertIn(f"{module}.{attribute}", self.pages[
            "api/index.html"].anchors)
        self.assertIn(f"jaxcal.{name}", re.sub("<[^>]+>", "", face))
    for name in ("jaxcal.metrics.calibration.expected_calibration_error",
                 "jaxcal.adapt.prompt.engine.adapt",
                 "jaxcal.posterior.laplace.Posterior"):
      page = f"api/{name.split('.')[1]}.html"
      self.assertIn(name, self.pages[page].anchors)

  def test_docstrings_are_read_and_formulas_drawn(self):
    formulas = 0
    for name in self.pages:
      if name.startswith("api/"):
        text = (self.folder / name).read_text(encoding="utf-8")
        formulas += text.count('<math xmlns')
        self.assertNotIn("math::", text, name)
        self.assertNotRegex(text, r"<p>(Args|Returns|Raises|Attributes):", name)
        # What griffe makes of "Source: ..." where its second line is indented.
        self.assertNotIn("<details", text.partition("<article")[2], name)
    self.assertGreater(formulas, 50)

  def test_runs_come_along_with_a_heading(self):
    text = (self.folder / "benchmarks/results/stress/test/results.html"
            ).read_text(encoding="utf-8")
    self.assertRegex(text, r'<h1 id="stresstest">stress/test')
    self.assertIn('<a href="../../../../runs.html">stored runs</a>', text)

  def test_notebooks_have_their_outputs(self):
    text = (self.folder / "notebooks/calibrate_logits.html").read_text("utf-8")
    article = text.partition("<article")[2]
    for part in ("data:image/png;base64,", "<table", "language-python"):
      self.assertIn(part, article)

  @parameterized.parameters(1280, 390)
  def test_fits_the_window(self, width):
    with _opened(self.folder / "index.html", width) as page:
      for name in ("index.html", "metrics.html", "api/metrics.html",
                   "api/index.html", "own_method.html",
                   "notebooks/own_method.html",
                   "benchmarks/results/set_sizes/sets.html"):
        page.goto((self.folder / name).as_uri())
        self.assertLessEqual(page.evaluate(_BEYOND), 0, name)
        self.assertEqual(page.evaluate(_CUT), [], name)

  @parameterized.parameters("file", "http")
  def test_search_finds(self, scheme):
    with contextlib.ExitStack() as stack:
      root = self.folder.as_uri()
      if scheme == "http":
        root = stack.enter_context(_served(self.folder))
      page = stack.enter_context(_opened(f"{root}/index.html", 1280))
      asked = []
      page.on("request", lambda request: asked.append(request.url))
      page.goto(f"{root}/index.html")
      page.set_default_timeout(120_000)  # of a machine that does much else
      page.locator(".md-search__input").click()
      page.get_by_text("Type to start searching").wait_for()
      page.locator(".md-search__input").press_sequentially("debiased")
      page.locator(".md-search-result__item",
                   has_text="debiased_calibration_error").first.wait_for()
      self.assertEqual([one for one in asked if not one.startswith(root)], [])


@contextlib.contextmanager
def _opened(address, width):
  """A page in a window, in a browser that has no network to ask."""
  try:
    from playwright import sync_api
  except ImportError:
    raise absltest.SkipTest("playwright is not installed (the extra browser)")
  if _CHROMIUM is None:
    raise absltest.SkipTest("there is no Chromium")
  with sync_api.sync_playwright() as play:
    browser = play.chromium.launch(
        executable_path=_CHROMIUM, args=["--no-sandbox"])
    with contextlib.closing(browser):
      yield browser.new_page(viewport={"width": width, "height": 900})


@contextlib.contextmanager
def _served(folder):
  """The address of a server on this machine that has the folder."""

  class Quiet(http.server.SimpleHTTPRequestHandler):

    def log_message(self, *args):
      del args

  with http.server.ThreadingHTTPServer(
      ("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


if __name__ == "__main__":
  absltest.main()
