"""Texts as the released CLIP cleans them before it looks for tokens.

Its tokenizer, those of OpenCLIP and those of the codes built on them pass a
text through ftfy, resolve HTML entities twice and collapse white space. The
same is done here by the standard library alone, so that no prompt depends on
whether ftfy is installed, or in which version.

What differs: ftfy guesses from statistics of letters whether a text was read in
a wrong encoding; here it is mended by the rule at `_mended`. A text that has
lost bytes on its way stays as it is.
"""

import html
import re
import unicodedata

_LIGATURES = str.maketrans({
    "\u0132": "IJ", "\u0133": "ij", "\u0149": "\u02bcn", "\u01f1": "DZ",
    "\u01f2": "Dz", "\u01f3": "dz", "\u01c4": "D\u017d", "\u01c5": "D\u017e",
    "\u01c6": "d\u017e", "\u01c7": "LJ", "\u01c8": "Lj", "\u01c9": "lj",
    "\u01ca": "NJ", "\u01cb": "Nj", "\u01cc": "nj", "\ufb00": "ff",
    "\ufb01": "fi", "\ufb02": "fl", "\ufb03": "ffi", "\ufb04": "ffl",
    "\ufb05": "\u017ft", "\ufb06": "st"})
_QUOTES = str.maketrans(
    dict.fromkeys("\u02bc\u2018\u2019\u201a\u201b", "'") |
    dict.fromkeys("\u201c\u201d\u201e\u201f", '"'))
# Invisible, and no white space.
_CONTROLS = str.maketrans(dict.fromkeys((
    *range(9), 0xb, *range(0xe, 0x20), 0x7f, *range(0x206a, 0x2070), 0xfeff,
    *range(0xfff9, 0xfffd))))
_ESCAPES = re.compile("\x1b\\[(?:[0-9]+;?)*[A-Za-z]")
# Twice as wide as others, or half as wide; no other compatible characters.
_WIDE = re.compile("[\u3000\uff01-\uffef]+")
_C1 = re.compile("[\x80-\x9f]")
_ENTITY = re.compile("&#?[0-9A-Za-z]{1,24};")

# Windows-1252, with the bytes that it leaves undefined as in Latin-1.
_LETTERS = {byte: bytes([byte]).decode("cp1252", "replace")
            .replace("\ufffd", chr(byte)) for byte in range(0x80, 0x100)}
_BYTES = {letter: byte for byte, letter in _LETTERS.items()}
_CONTROL_CODES = "".join(map(chr, range(0x80, 0xa0)))
_LATER = "".join(_LETTERS[byte] for byte in range(0x80, 0xc0)) + _CONTROL_CODES


def _sequence(first, last, length, later=_LATER):
  """A pattern of UTF-8 sequences, each byte of which was read as a letter."""
  start = "".join(_LETTERS[byte] for byte in range(first, last + 1))
  return f"[{start}][{re.escape(later)}]{{{length - 1}}}"


# Three and four letters of this kind, two that begin like those of Latin-1's
# own letters, or control codes do not stand in a text that was read rightly.
_CERTAIN = "|".join((
    _sequence(0xf0, 0xf4, 4), _sequence(0xe0, 0xef, 3),
    _sequence(0xc2, 0xc3, 2), _sequence(0xc4, 0xdf, 2, _CONTROL_CODES)))
# Others are a capital and a sign: beside a small letter, or several in a row.
# So "CAF\xc9\xae" stays.
_LIKELY = _sequence(0xc4, 0xdf, 2)
_MISREAD = re.compile(
    f"(?:{_CERTAIN}|{_LIKELY}){{2,}}|{_CERTAIN}|(?<=[a-z])(?:{_LIKELY})|"
    f"{_sequence(0xc4, 0xc5, 2)}(?=[a-z])")
_ROUNDS = 8  # texts were read wrongly twice, hardly more often


def clean(text: str) -> str:
  """The text that the released CLIP would look for tokens in.

  Args:
    text: Text of any kind, such as a class name from a web page.

  Returns:
    Text without entities, misread bytes, ligatures, letters of double width,
    curly quotes and control characters; in one line, of composed characters.
  """
  text = _until_settled(_fixed, text)
  text = html.unescape(html.unescape(text))
  return " ".join(text.split())


def _until_settled(change, text):
  for _ in range(_ROUNDS):
    before, text = text, change(text)
    if text == before:
      break
  return text


def _fixed(text):
  if "<" not in text:  # or else it is HTML that is meant as such
    text = _ENTITY.sub(lambda found: html.unescape(found[0]), text)
  text = _until_settled(_mended, _ESCAPES.sub("", text))
  text = _C1.sub(lambda found: _LETTERS[ord(found[0])], text)
  text = text.translate(_LIGATURES)
  text = _WIDE.sub(
      lambda found: unicodedata.normalize("NFKC", found[0]), text)
  text = text.translate(_QUOTES).translate(_CONTROLS)
  return unicodedata.normalize("NFC", text)


def _mended(text):
  """UTF-8 that was read as Windows-1252 or Latin-1, read anew.

  Only where a whole sequence of bytes gives a character, see `_MISREAD`.
  """
  return _MISREAD.sub(lambda found: _read_anew(found[0]), text)


def _read_anew(letters):
  try:
    return bytes(_BYTES.get(letter, ord(letter) & 0xff)
                 for letter in letters).decode("utf-8")
  except UnicodeDecodeError:
    return letters
