"""Drawn scenes: attribute records from a seeded generator, and their pixels.

A scene shows one subject (a shape, or a real handwritten digit) in a colour,
texture, size and style, before a background and between small distractors.
Some pairs of colour and shape are held out: training scenes never contain
them, not even as distractors.
"""

import functools
from typing import NamedTuple

import numpy as np

from jaxcal.testbed import digits
from jaxcal.testbed import outlines
from jaxcal.typing import Float
from jaxcal.typing import UInt8

SIDE = 64

# sRGB in [0, 1]. Neighbours in a family are close on purpose.
PALETTE = {
    "red": (.88, .12, .12), "crimson": (.70, .05, .22),
    "scarlet": (1., .22, .04), "maroon": (.42, .04, .08),
    "coral": (1., .50, .42), "orange": (1., .55, .05),
    "amber": (.98, .73, .05), "yellow": (.97, .95, .15),
    "olive": (.48, .46, .08), "lime": (.65, .95, .15),
    "green": (.13, .58, .16), "emerald": (.10, .76, .45),
    "mint": (.62, .95, .76), "teal": (.03, .48, .50),
    "cyan": (.15, .88, .92), "azure": (.20, .60, .98),
    "blue": (.12, .22, .90), "navy": (.06, .08, .40),
    "indigo": (.32, .08, .58), "purple": (.54, .14, .66),
    "violet": (.68, .45, .95), "magenta": (.92, .12, .82),
    "pink": (.99, .66, .78), "brown": (.45, .26, .10),
    "tan": (.82, .68, .48), "white": (.97, .97, .97),
    "gray": (.52, .52, .52), "black": (.05, .05, .05),
}
COLOURS = tuple(PALETTE)
BASIC_COLOURS = (
    "red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink",
    "brown", "white", "gray", "black",
)
SHAPES = outlines.SHAPES
SUBJECTS = SHAPES + tuple(f"handwritten {name}" for name in digits.NAMES)
TEXTURES = ("plain", "striped", "dotted", "checkered", "wavy", "ringed")
STYLES = ("photo", "drawing", "sketch", "neon")
SIZES = ("small", "medium", "big")

# Each basic colour misses four shapes, and every shape misses at least two.
HELD_OUT = frozenset(
    (colour, SHAPES[(5 * i + 4 * j) % len(SHAPES)])
    for i, colour in enumerate(BASIC_COLOURS) for j in range(4))

_RGB = np.array(list(PALETTE.values()), np.float32)
_SEEN = np.array([[(colour, shape) not in HELD_OUT for shape in SHAPES]
                  for colour in COLOURS])
# A background must not swallow the subject.
_CONTRASTS = np.linalg.norm(_RGB[:, None] - _RGB, axis=-1) > 0.5


class Pose(NamedTuple):
  """Where a subject is: centre and radius in half-images, angle in radians."""

  x: float
  y: float
  radius: float
  angle: float


class Distractor(NamedTuple):
  """A small plain shape behind the subject."""

  shape: int
  colour: int
  pose: Pose


class Background(NamedTuple):
  """What is behind everything; `colour` is -1 for a washed-out shade."""

  colour: int
  rgb: np.ndarray
  pattern: int
  strength: float
  frequency: float
  angle: float
  gradient: float


class Camera(NamedTuple):
  """What turns a clean rendering into a photo."""

  light: float
  shadow: float
  blur: float
  contrast: float
  gain: np.ndarray
  noise: float
  noise_seed: int


class Scene(NamedTuple):
  """Attributes of one image; indices count in the tables of this module.

  Attributes:
    subject: Index in `SUBJECTS`.
    scan: Index of the handwritten scan, -1 for a shape.
    colour: Index in `COLOURS`, the subject's.
    texture: Index in `TEXTURES`.
    style: Index in `STYLES`.
    size: Index in `SIZES`.
    rgb: The subject's colour after its jitter.
    frequency: Spatial frequency of the texture.
    phase: Phase of the texture and of the background's pattern.
    pose: The subject's pose.
    background: What is behind.
    distractors: Small shapes that captions do not mention.
    camera: Light, blur and noise; used by the photo style alone.
  """

  subject: int
  scan: int
  colour: int
  texture: int
  style: int
  size: int
  rgb: np.ndarray
  frequency: float
  phase: float
  pose: Pose
  background: Background
  distractors: tuple[Distractor, ...]
  camera: Camera


def draw(
    rng: np.random.Generator,
    *,
    shape: str | None = None,
    colour: str | None = None,
    style: str | None = None,
    scan: int | None = None,
) -> Scene:
  """A random scene whose given attributes are fixed.

  Args:
    rng: Source of every choice; the same state gives the same scene.
    shape: The shape to show; any if None.
    colour: Colour of the subject; any if None, such that the pair is not held
      out. A held-out pair appears only where both are given.
    style: One of `STYLES`; mostly photos if None.
    scan: A handwritten scan to show in place of a shape.

  Raises:
    ValueError: If a name is unknown, or both a shape and a scan are given.
  """
  if shape is not None and scan is not None:
    raise ValueError("give a shape or a scan, not both")
  kind = (int(rng.integers(len(SHAPES))) if shape is None
          else _index("shape", shape, SHAPES))
  if colour is not None:
    tint = _index("colour", colour, COLOURS)
    if shape is None and scan is None:
      kind = int(rng.choice(np.flatnonzero(_SEEN[tint])))
  elif scan is not None:
    tint = int(rng.integers(len(COLOURS)))
  else:
    tint = int(rng.choice(np.flatnonzero(_SEEN[:, kind])))
  look = (int(rng.choice(len(STYLES), p=(.7, .12, .12, .06)))
          if style is None else _index("style", style, STYLES))
  texture = int(rng.integers(len(TEXTURES))) if rng.random() < .45 else 0
  if STYLES[look] == "sketch" or scan is not None:
    texture = 0
  if scan is not None:
    look = STYLES.index("photo")
    kind = len(SHAPES) + int(digits.labels()[scan])
  pose = _draw_pose(rng)
  return Scene(
      subject=kind,
      scan=-1 if scan is None else scan,
      colour=tint,
      texture=texture,
      style=look,
      size=int(np.searchsorted((.5, .68), pose.radius)),
      rgb=_jitter(rng, tint),
      frequency=rng.uniform(6, 10),
      phase=rng.uniform(0, 2 * np.pi),
      pose=pose,
      background=_draw_background(rng, tint),
      distractors=_draw_distractors(rng),
      camera=_draw_camera(rng),
  )


def _index(kind, name, choices):
  if name not in choices:
    raise ValueError(f"unknown {kind} {name!r}; choose from: "
                     f"{', '.join(choices)}.")
  return choices.index(name)


def _jitter(rng, colour):
  return (_RGB[colour] + .035 * rng.standard_normal(3)).clip(0, 1)


def _draw_pose(rng):
  radius = float(np.exp(rng.uniform(np.log(.4), np.log(.9))))
  room = max(1 - radius, .06)
  x, y = rng.uniform(-room, room, 2)
  angle = .16 * rng.standard_normal()
  return Pose(x, y, radius, float(np.clip(angle, -.5, .5)))


def _draw_background(rng, subject_colour):
  colour = int(rng.choice(np.flatnonzero(_CONTRASTS[subject_colour])))
  rgb = _jitter(rng, colour)
  # Half of the backgrounds are washed out towards the paler or the darker.
  washed = rng.random() < .5
  target = float(_RGB[subject_colour].mean() < .5)
  if washed:
    rgb = rgb + rng.uniform(.4, .8) * (target - rgb)
  plain = rng.random() < .7
  pattern = 0 if plain else int(rng.integers(1, len(TEXTURES)))
  return Background(
      colour=-1 if washed else colour,
      rgb=rgb,
      pattern=pattern,
      strength=rng.uniform(-.25, .25),
      frequency=rng.uniform(6, 16),
      angle=rng.uniform(0, 2 * np.pi),
      gradient=rng.uniform(-.15, .15),
  )


def _draw_distractors(rng):
  distractors = []
  for _ in range(int(rng.choice(3, p=(.6, .28, .12)))):
    shape = int(rng.integers(len(SHAPES)))
    colour = int(rng.choice(np.flatnonzero(_SEEN[:, shape])))
    x, y = rng.uniform(-1, 1, 2)
    pose = Pose(x, y, rng.uniform(.1, .2), rng.uniform(0, 2 * np.pi))
    distractors.append(Distractor(shape, colour, pose))
  return tuple(distractors)


def _draw_camera(rng):
  return Camera(
      light=rng.uniform(-.3, .3),
      shadow=rng.uniform(0, .4),
      blur=rng.uniform(.3, 1.3) if rng.random() < .4 else 0.,
      contrast=rng.uniform(.7, 1.1),
      gain=1 + .05 * rng.standard_normal() + .025 * rng.standard_normal(3),
      noise=rng.uniform(0, .08),
      noise_seed=int(rng.integers(2 ** 31)),
  )


def render(scene: Scene) -> UInt8[np.ndarray, "64 64 3"]:
  """Pixels of a scene; the same scene gives the same bytes on a machine."""
  style = STYLES[scene.style]
  photo = style == "photo"
  x, y = _grid()
  image = _paint_background(scene, x, y)
  if style in ("photo", "drawing"):
    for shape, colour, pose in scene.distractors:
      cover = _cover(_distance(shape, pose, x, y))
      image += cover[..., None] * (_RGB[colour] - image)
  u, v = _object_frame(scene.pose, x, y)
  if scene.scan >= 0:
    ink = _lookup(digits.ink(scene.scan), u / outlines.REACH,
                  v / outlines.REACH, 0.)[..., None]
    image += ink * (_fill(scene, u, v) - image)
  else:
    if photo:
      cast = scene.pose._replace(x=scene.pose.x + .06, y=scene.pose.y + .08)
      soft = _cover(_distance(scene.subject, cast, x, y), 4.)
      image *= 1 - scene.camera.shadow * soft[..., None]
    distance = _distance(scene.subject, scene.pose, x, y)
    _paint_shape(image, scene, distance, u, v)
  if photo:
    image = _expose(image, scene.camera)
  return np.round(255 * image.clip(0, 1)).astype(np.uint8)


@functools.cache
def _grid():
  ticks = ((np.arange(SIDE) + .5) / SIDE * 2 - 1).astype(np.float32)
  x, y = np.meshgrid(ticks, ticks)
  x.flags.writeable = y.flags.writeable = False
  return x, y


def _object_frame(pose, x, y):
  """Image coordinates as seen from a subject of radius 1 at the origin."""
  cos = np.float32(np.cos(pose.angle) / pose.radius)
  sin = np.float32(np.sin(pose.angle) / pose.radius)
  x, y = x - np.float32(pose.x), y - np.float32(pose.y)
  return cos * x + sin * y, cos * y - sin * x


def _lookup(table, u, v, outside):
  """Bilinear samples of a table over [-1, 1] squared."""
  last = len(table) - 1
  column = ((u + 1) * len(table) - 1) / 2
  row = ((v + 1) * len(table) - 1) / 2
  away = (column < 0) | (column > last) | (row < 0) | (row > last)
  column, row = column.clip(0, last - 1e-3), row.clip(0, last - 1e-3)
  left, top = column.astype(np.int32), row.astype(np.int32)
  right_share, low_share = column - left, row - top
  corner = top * len(table) + left
  flat = table.ravel()
  upper = flat[corner] * (1 - right_share) + flat[corner + 1] * right_share
  corner += len(table)
  lower = flat[corner] * (1 - right_share) + flat[corner + 1] * right_share
  return np.where(away, np.float32(outside),
                  upper + low_share * (lower - upper))


def _distance(shape, pose, x, y):
  """Signed distance to a posed shape, in half-images."""
  u, v = _object_frame(pose, x, y)
  table = outlines.distance_table(SHAPES[shape])
  return np.float32(pose.radius) * _lookup(
      table, u / outlines.REACH, v / outlines.REACH, 1.)


def _cover(distance, pixels=1.):
  """How much of each pixel is inside, with a soft edge of some pixels."""
  return (.5 - distance * np.float32(SIDE / 2 / pixels)).clip(0, 1)


def _pattern(texture, u, v, frequency, phase):
  """The share of a texture's second colour, in [0, 1]."""
  frequency, phase = np.float32(frequency), np.float32(phase)
  match TEXTURES[texture]:
    case "plain":
      wave = np.full_like(u, -1.)
    case "striped":
      wave = np.sin(frequency * u + phase)
    case "dotted":
      wave = np.cos(frequency * u) * np.cos(frequency * v) - .4
    case "checkered":
      wave = 2 * np.sin(frequency * .7 * u) * np.sin(frequency * .7 * v)
    case "wavy":
      wave = np.sin(frequency * v + 2 * np.sin(.8 * frequency * u) + phase)
    case "ringed":
      wave = np.sin(1.2 * frequency * np.hypot(u, v) + phase)
  return (.5 + 3 * wave).clip(0, 1)


def _paint_background(scene, x, y):
  background = scene.background
  style = STYLES[scene.style]
  rgb = background.rgb
  if style == "neon":
    rgb = .2 * rgb
  elif style == "sketch":
    # Bright paper for dark ink, a blackboard for bright chalk.
    rgb = np.full(3, .93 if scene.rgb.mean() < .6 else .1)
  rgb = rgb.astype(np.float32)
  image = np.broadcast_to(rgb, (SIDE, SIDE, 3)).copy()
  if style in ("photo", "drawing"):
    cos = np.float32(np.cos(background.angle))
    sin = np.float32(np.sin(background.angle))
    u, v = cos * x + sin * y, cos * y - sin * x
    shade = background.strength * _pattern(
        background.pattern, u, v, background.frequency, scene.phase)
    image += (shade + np.float32(background.gradient) * u)[..., None]
  return image


def _fill(scene, u, v):
  """The subject's surface: colour, texture and, in photos, light."""
  rgb = scene.rgb.astype(np.float32)
  bright = rgb.mean() > .4
  accent = .3 * rgb if bright else .3 * rgb + np.float32(.65)
  share = _pattern(scene.texture, u, v, scene.frequency, scene.phase)
  surface = rgb + share[..., None] * (accent - rgb)
  if STYLES[scene.style] == "photo":
    surface *= (1 - np.float32(scene.camera.light) * (u + v) / 2)[..., None]
  return surface


def _paint_shape(image, scene, distance, u, v):
  style = STYLES[scene.style]
  rgb = scene.rgb.astype(np.float32)
  stroke = _cover(np.abs(distance) - np.float32(.035))[..., None]
  if style in ("photo", "drawing"):
    cover = _cover(distance)[..., None]
    image += cover * (_fill(scene, u, v) - image)
  if style == "drawing":
    image += stroke * (np.float32(.05) - image)
  elif style == "sketch":
    image += stroke * (rgb - image)
  elif style == "neon":
    glow = np.exp(-np.abs(distance) / np.float32(.08))[..., None]
    image += glow * (.8 * rgb + np.float32(.2) - image)


def _expose(image, camera):
  """Blur, contrast, gain and noise."""
  if camera.blur:
    kernel = gaussian_matrix(camera.blur)
    image = np.stack(
        [kernel @ image[..., c] @ kernel.T for c in range(3)], axis=-1)
  image = (image - .5) * np.float32(camera.contrast) + np.float32(.5)
  image *= camera.gain.astype(np.float32)
  noise = np.random.default_rng(camera.noise_seed).standard_normal(
      image.shape, np.float32)
  return image + np.float32(camera.noise) * noise


def gaussian_matrix(sigma: float) -> Float[np.ndarray, "64 64"]:
  """Rows that blur a line of pixels; sigma in pixels, borders renormalised."""
  ticks = np.arange(SIDE, dtype=np.float32)
  weights = np.exp(-.5 * ((ticks[:, None] - ticks) / np.float32(sigma)) ** 2)
  return weights / weights.sum(axis=1, keepdims=True)
