"""Cleaned texts against what ftfy 6.3.1 and html.unescape make of them."""

import json
import pathlib

from absl.testing import absltest
from absl.testing import parameterized

from jaxcal.clip import cleaning

_NAMES = pathlib.Path(cleaning.__file__).parents[1] / "data/class_names.json"


def _texts(found):
  if isinstance(found, str):
    yield found
  elif isinstance(found, (dict, list)):
    for one in (found.values() if isinstance(found, dict) else found):
      yield from _texts(one)


class CleaningTest(parameterized.TestCase):

  @parameterized.parameters(
      ("women\u2019s boot", "women's boot"),
      ("\u201cA\u201d", '"A"'),
      ("black &amp; white", "black & white"),
      ("fish &amp;amp; chips", "fish & chips"),
      ("&lt;b&gt;", "<b>"),
      ("a < men&rsquo;s", "a < men\u2019s"),
      ("wa\ufb04e", "waffle"),
      ("\uff23\uff21\uff34\u3000\uff11", "CAT 1"),
      ("nai\u0308ve", "na\u00efve"),
      ("\ufeffcat\x00\x1b[31m", "cat"),
      ("  a\t b\u2028c \u00a0", "a b c"),
      ("zero\u200bwidth", "zero\u200bwidth"),
      ("\u2460", "\u2460"))
  def test_as_the_released_tokenizer(self, text, expected):
    self.assertEqual(cleaning.clean(text), expected)

  @parameterized.parameters(
      "na\u00efve", "S\u00e3o Paulo", "jalape\u00f1o", "\u0141\u00f3d\u017a",
      "Pawe\u0142", "\u0130stanbul", "\u041c\u043e\u0441\u043a\u0432\u0430",
      "\u732b", "\u039a\u03cd\u03c0\u03c1\u03bf\u03c2", "\U0001f60a",
      "10\u00b0C", "ti\u1ebfng Vi\u1ec7t")
  def test_misread_bytes(self, text):
    for encoding in ("cp1252", "latin-1"):
      misread = text.encode()
      for _ in range(2):
        try:
          misread = misread.decode(encoding)
        except UnicodeDecodeError:
          break  # not all bytes are letters of Windows-1252
        self.assertEqual(cleaning.clean(misread), text)
        misread = misread.encode()

  @parameterized.parameters(
      "caf\u00e9", "CAF\u00c9\u00ae", "\u00c5\u00c4\u00d6", "M\u00c3O",
      "4\u00d74", "\u00abR\u00e9sum\u00e9\u00bb", "\u00d1and\u00fa")
  def test_what_was_read_rightly_stays(self, text):
    self.assertEqual(cleaning.clean(text), text)

  def test_no_class_name_of_the_benchmarks_changes(self):
    names = list(_texts(json.loads(_NAMES.read_text("utf-8"))))
    self.assertGreater(len(names), 3000)
    for name in names:
      self.assertEqual(cleaning.clean(name), name)


if __name__ == "__main__":
  absltest.main()
