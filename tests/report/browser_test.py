"""A large page in headless Chromium, wide and narrow, as a reader sees it."""

import contextlib
import pathlib
import shutil
import tempfile
import unittest

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pytest

from jaxcal.predictions import Predictions
from jaxcal.report import measured
from jaxcal.report import summary

_METHODS, _SETS, _IMAGES, _CLASSES = 12, 6, 400, 20
_CHROMIUM = next(filter(None, map(shutil.which, (
    "chromium", "chromium-browser", "google-chrome"))), None)

# Elements that are seen and reach beyond either side of the window. What has no
# box of its own, such as parts of drawings, is held by the box around it.
_BEYOND = """() => [...document.querySelectorAll("body *")].filter((one) => {
  const box = one.getBoundingClientRect();
  const width = document.documentElement.clientWidth;
  return box.width && !one.closest("svg *")
      && (box.right > width + 0.5 || box.left < -0.5);
}).map((one) => one.outerHTML.slice(0, 80))"""
_COLUMN = """([heading]) => {
  const table = document.querySelector("table");
  const at = [...table.tHead.rows[0].cells].findIndex(
      (cell) => cell.textContent === heading);
  return [...table.tBodies[0].rows].map((row) => row.cells[at].textContent);
}"""


def _predictions(rng, labels, strength):
  logits = rng.normal(size=(_IMAGES, _CLASSES))
  logits[np.arange(_IMAGES), labels] += strength
  return Predictions(
      (2 * logits).astype(np.float32), labels.astype(np.int32),
      tuple(f"a_folder_with_a_long_name/image_{i:06d}.jpg"
            for i in range(_IMAGES)),
      tuple(f"class {i} of them" for i in range(_CLASSES)))


def _write(folder):
  """The page of many methods on many sets."""
  rng = np.random.default_rng(0)
  sets = []
  for number in range(_SETS):
    labels = rng.integers(_CLASSES, size=_IMAGES)
    sets.append(measured.Predicted(f"set_{number}", {
        f"method_{method}_with_more+temperature": _predictions(
            rng, labels, method / 6)
        for method in range(_METHODS)}, {}))
  conventions = summary.Conventions(num_resamples=50)
  measured.write(folder, measured.measure(sets, conventions),
                 about={"config.model.name": "made"}, conventions=conventions)
  return folder / "report.html"


@contextlib.contextmanager
def _opened(path, width):
  """The page in a window; and what it logs and asks for."""
  from playwright import sync_api
  with sync_api.sync_playwright() as play:
    browser = play.chromium.launch(
        executable_path=_CHROMIUM, args=["--no-sandbox"])
    tab = browser.new_page(viewport={"width": width, "height": 800})
    said, asked = [], []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(path.as_uri())
    yield tab, said, asked
    browser.close()


@pytest.mark.slow
class BrowserTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    try:
      import playwright  # noqa: F401
    except ImportError as error:
      raise unittest.SkipTest(
          "playwright is not installed (pip install -e .[browser])") from error
    if _CHROMIUM is None:
      raise unittest.SkipTest("no Chromium is installed")
    cls.page = _write(pathlib.Path(cls.enterClassContext(
        tempfile.TemporaryDirectory())))

  def test_below_five_megabytes(self):
    self.assertLess(self.page.stat().st_size, 5e6)

  @parameterized.parameters(1280, 390)
  def test_quiet_and_within_the_window(self, width):
    with _opened(self.page, width) as (tab, said, asked):
      self.assertEqual(tab.evaluate(_BEYOND), [])
      self.assertEqual(
          tab.evaluate("document.documentElement.scrollWidth"), width)
      self.assertEqual(said, [])
      self.assertEqual([url for url in asked if not url.startswith("data:")],
                       [self.page.as_uri()])

  @parameterized.parameters(1280, 390)
  def test_sorts_by_click_and_by_key(self, width):
    with _opened(self.page, width) as (tab, _, _):
      numbers = lambda: [float(text.split()[0]) for text in tab.evaluate(
          _COLUMN, ["ECE %"])]
      before = numbers()
      button = tab.locator("th button", has_text="ECE %").first
      button.click()
      self.assertEqual(numbers(), sorted(before))
      button.focus()
      tab.keyboard.press("Enter")
      self.assertEqual(numbers(), sorted(before, reverse=True))
      tab.locator("th button", has_text="method").first.press("Space")
      order = [int(name.split("_")[1])
               for name in tab.evaluate(_COLUMN, ["method"])]
      self.assertEqual(order, sorted(order))
      self.assertNotEqual(before, sorted(before))

  def test_contents_lead_to_every_section(self):
    with _opened(self.page, 1280) as (tab, _, _):
      missing = tab.evaluate(
          "() => [...document.querySelectorAll('nav a')].filter((one) => "
          "!document.querySelector(one.hash)).length")
      self.assertEqual(missing, 0)
      self.assertGreater(tab.locator("nav a").count(), _SETS)


if __name__ == "__main__":
  absltest.main()
