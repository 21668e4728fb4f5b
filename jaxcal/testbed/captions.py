"""Captions of scenes: templates, synonyms and what each caption claims.

The article is always "a", as in the class-name template "a photo of a {}.".
"""

from typing import NamedTuple

import numpy as np

from jaxcal.testbed import digits
from jaxcal.testbed import scenes

# The attributes of a scene that a caption can claim, in this order.
ATTRIBUTES = ("subject", "colour", "texture", "style", "size", "background")

# The first word is the class name; it is used most of the time.
SHAPE_WORDS = {
    "circle": ("circle", "disc"), "square": ("square", "box"),
    "diamond": ("diamond", "rhombus"), "cross": ("cross", "plus"),
    "crescent": ("crescent", "moon"), "ring": ("ring", "hoop"),
    "flower": ("flower", "blossom"), "gear": ("gear", "cog"),
    "raindrop": ("raindrop", "drop"), "bolt": ("bolt", "lightning"),
    "house": ("house", "home"), "oval": ("oval", "ellipse"),
}
COLOUR_WORDS = {"gray": ("gray", "grey"), "purple": ("purple", "plum"),
                "white": ("white", "snowy"), "black": ("black", "ebony")}
TEXTURE_WORDS = {
    "plain": ("plain", "solid"), "striped": ("striped", "banded"),
    "dotted": ("dotted", "spotted"), "checkered": ("checkered", "checked"),
    "wavy": ("wavy", "zigzag"), "ringed": ("ringed", "concentric"),
}
SIZE_WORDS = {"small": ("small", "little", "tiny"),
              "big": ("big", "large", "huge")}
STYLE_TEMPLATES = {
    "photo": ("a photo of a {}", "a picture of a {}", "a good photo of a {}",
              "this is a photo of a {}"),
    "drawing": ("a drawing of a {}", "a cartoon of a {}",
                "this is a drawing of a {}"),
    "sketch": ("a sketch of a {}", "a line drawing of a {}",
               "this is a sketch of a {}"),
    "neon": ("a neon {}", "a neon sign of a {}", "this is a neon {}"),
}
PLAIN_TEMPLATES = ("a {}", "this is a {}", "an image of a {}", "one {}",
                   "here is a {}")


class Caption(NamedTuple):
  """A sentence, and the attribute values it claims (-1: no claim)."""

  text: str
  claims: np.ndarray


def attributes(scene: scenes.Scene) -> np.ndarray:
  """int8 [6]: the scene's values of `ATTRIBUTES`, -1 for what is not seen."""
  outlined = scenes.STYLES[scene.style] in ("sketch", "neon")
  return np.array([
      scene.subject, scene.colour, -1 if outlined else scene.texture,
      scene.style, scene.size, -1 if outlined else scene.background.colour,
  ], np.int8)


def is_true(claims: np.ndarray, values: np.ndarray) -> np.ndarray:
  """bool [n c]: whether the claims [c a] hold for the attributes [n a]."""
  return ((claims == -1) | (claims == values[:, None])).all(axis=-1)


def compose(values: np.ndarray, rng: np.random.Generator) -> Caption:
  """A random true caption of a scene.

  Args:
    values: The scene's `attributes`.
    rng: Source of every choice of words.
  """
  subject, colour, texture, style, size, background = map(int, values)
  claimed = np.full(len(values), -1, np.int8)
  detail = rng.random(6)
  claim = {
      "subject": detail[0] < .93,
      "colour": detail[1] < .55 or detail[0] >= .93,
      "texture": detail[2] < (.3 if texture > 0 else .06) and texture >= 0,
      "style": detail[3] < .6,
      "size": detail[4] < .15 and scenes.SIZES[size] != "medium",
      "background": detail[5] < .12 and background >= 0,
  }
  # Long sentences would pad all the others.
  claim["background"] &= not (claim["texture"] or claim["size"])
  for position, name in enumerate(ATTRIBUTES):
    if claim[name]:
      claimed[position] = values[position]
  words = []
  if claim["size"]:
    words.append(_word(rng, SIZE_WORDS[scenes.SIZES[size]]))
  if claim["texture"]:
    words.append(_word(rng, TEXTURE_WORDS[scenes.TEXTURES[texture]]))
  if claim["colour"]:
    words.append(_colour(rng, colour))
  words.append(_subject(rng, subject) if claim["subject"] else "shape")
  if claim["background"]:
    words.append(f"on a {_colour(rng, background)} background")
  templates = (STYLE_TEMPLATES[scenes.STYLES[style]] if claim["style"]
               else PLAIN_TEMPLATES)
  stop = "." if rng.random() < .8 else ""
  text = _word(rng, templates).format(" ".join(words)) + stop
  return Caption(text, claimed)


def vocabulary() -> tuple[str, ...]:
  """Every word that a caption or a class name can contain, sorted."""
  phrases = [*PLAIN_TEMPLATES, "shape on a background", *scenes.COLOURS,
             *scenes.SUBJECTS, "digit"]
  for table in (SHAPE_WORDS, COLOUR_WORDS, TEXTURE_WORDS, SIZE_WORDS,
                STYLE_TEMPLATES):
    for entry in table.values():
      phrases += entry
  words = " ".join(phrases).replace("{}", " ").split()
  return tuple(sorted(set(words)))


def _word(rng, choices):
  """The first choice with probability 0.6, else any of them."""
  if rng.random() < .6:
    return choices[0]
  return choices[int(rng.integers(len(choices)))]


def _colour(rng, colour):
  name = scenes.COLOURS[colour]
  return _word(rng, COLOUR_WORDS.get(name, (name,)))


def _subject(rng, subject):
  if subject < len(scenes.SHAPES):
    name = scenes.SHAPES[subject]
    return _word(rng, SHAPE_WORDS.get(name, (name,)))
  digit = digits.NAMES[subject - len(scenes.SHAPES)]
  return _word(rng, (f"handwritten {digit}", f"digit {digit}", digit))
