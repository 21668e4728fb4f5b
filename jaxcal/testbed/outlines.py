"""Signed distance tables of the testbed's shapes."""

import functools

import numpy as np

from jaxcal.typing import Float

SHAPES = (
    "circle", "oval", "square", "triangle", "diamond", "star", "cross",
    "heart", "crescent", "ring", "arrow", "flower", "gear", "raindrop",
    "bolt", "leaf", "house", "hourglass",
)

# Tables cover [-REACH, REACH] squared; every shape fits into the unit disc.
REACH = 1.5
RESOLUTION = 96


def _polar(radius, points=96):
  """Closed curve radius(angle), angle 0 pointing up."""
  angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
  r = np.broadcast_to(radius(angle), angle.shape)
  return np.stack([r * np.sin(angle), -r * np.cos(angle)], axis=-1)


def _spikes(count, inner):
  """Star polygon with `count` tips at radius 1, one of them pointing up."""
  corners = _polar(lambda angle: np.ones_like(angle), 2 * count)
  corners[1::2] *= inner
  return corners


def _arc(centre, radius, start, stop, points=48):
  """Points on a circle arc; angles in degrees, 0 to the right, 90 down."""
  angle = np.radians(np.linspace(start, stop, points))
  return np.stack([
      centre[0] + radius * np.cos(angle),
      centre[1] + radius * np.sin(angle),
  ], axis=-1)


def _heart():
  """The classical sixteen-sine-cubed curve, scaled into the unit disc."""
  t = np.linspace(0, 2 * np.pi, 96, endpoint=False)
  x = 16 * np.sin(t) ** 3
  y = (13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t)
       - np.cos(4 * t))
  return np.stack([x, -y - 2.5], axis=-1) / 16.5


def _outline(shape):
  """Closed polygons of a shape; a point is inside an odd number of them."""
  if shape == "circle":
    return [_polar(lambda a: 0.88 + 0 * a)]
  if shape == "oval":
    return [_polar(lambda a: 0.88 + 0 * a) * [1.1, 0.62]]
  if shape == "square":
    return [[(-.78, -.78), (.78, -.78), (.78, .78), (-.78, .78)]]
  if shape == "triangle":
    return [[(0, -.95), (.9, .72), (-.9, .72)]]
  if shape == "diamond":
    return [[(0, -1), (.66, 0), (0, 1), (-.66, 0)]]
  if shape == "star":
    return [_spikes(5, 0.42)]
  if shape == "cross":
    a, b = 0.3, 0.92
    return [[(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b),
             (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a)]]
  if shape == "heart":
    return [_heart()]
  if shape == "crescent":
    # The inner arc meets the outer one at the two horns.
    return [np.concatenate([
        _arc((0, 0), 0.95, 45, 315),
        _arc((0.67, 0), 0.672, 270, 90),
    ])]
  if shape == "ring":
    return [_polar(lambda a: 0.92 + 0 * a), _polar(lambda a: 0.52 + 0 * a)]
  if shape == "arrow":
    return [[(1, 0), (.15, -.8), (.15, -.3), (-.95, -.3), (-.95, .3),
             (.15, .3), (.15, .8)]]
  if shape == "flower":
    return [_polar(lambda a: 0.74 + 0.22 * np.cos(5 * a), 160),
            _polar(lambda a: 0.2 + 0 * a, 32)]
  if shape == "gear":
    teeth = np.tanh
    return [_polar(lambda a: 0.81 + 0.14 * teeth(4 * np.cos(8 * a)), 192),
            _polar(lambda a: 0.36 + 0 * a, 48)]
  if shape == "raindrop":
    return [np.concatenate([_arc((0, .35), 0.62, -25, 205), [(0, -1)]])]
  if shape == "bolt":
    return [[(.3, -1), (-.6, .2), (-.05, .2), (-.3, 1), (.6, -.3),
             (.05, -.3), (.5, -1)]]
  if shape == "leaf":
    along = np.linspace(-0.95, 0.95, 48)
    across = 0.5 * (1 - (along / 0.95) ** 2)
    lens = np.concatenate([
        np.stack([along, across], axis=-1),
        np.stack([along, -across], axis=-1)[::-1],
    ])
    return [lens @ [[0.7071, -0.7071], [0.7071, 0.7071]]]
  if shape == "house":
    return [[(0, -.95), (.9, -.2), (.66, -.2), (.66, .8), (.2, .8),
             (.2, .3), (-.2, .3), (-.2, .8), (-.66, .8), (-.66, -.2),
             (-.9, -.2)]]
  if shape == "hourglass":
    return [[(-.7, -.92), (.7, -.92), (.12, 0), (.7, .92), (-.7, .92),
             (-.12, 0)]]
  raise ValueError(f"shape must be one of {SHAPES}, got {shape!r}")


def _signed_distance(polygons, points):
  """Distance of points [p 2] to the outline, negative inside."""
  nearest = np.full(len(points), np.inf)
  inside = np.zeros(len(points), bool)
  for corners in polygons:
    start = np.asarray(corners, float)
    edge = np.roll(start, -1, axis=0) - start
    offset = points[:, None] - start
    along = np.einsum("pei,ei->pe", offset, edge) / np.maximum(
        np.einsum("ei,ei->e", edge, edge), 1e-12)
    foot = offset - np.clip(along, 0, 1)[..., None] * edge
    squared = np.einsum("pei,pei->pe", foot, foot)
    nearest = np.minimum(nearest, squared.min(axis=1))
    # Even-odd rule: count the edges that a ray to the right crosses.
    spans = (offset[..., 1] < 0) != (offset[..., 1] < edge[:, 1])
    side = offset[..., 0] * edge[:, 1] - offset[..., 1] * edge[:, 0]
    crosses = spans & ((side < 0) == (edge[:, 1] > 0))
    inside ^= crosses.sum(axis=1) % 2 == 1
  return np.where(inside, -1, 1) * np.sqrt(nearest)


@functools.cache
def distance_table(shape: str) -> Float[np.ndarray, "r r"]:
  """Signed distance to a shape's outline, negative inside, in shape units.

  Args:
    shape: One of `SHAPES`.

  Returns:
    float32 samples at the cell centres of a grid over [-REACH, REACH]; first
    axis down, second axis right. The table is cached: do not write to it.

  Raises:
    ValueError: If the shape is unknown.
  """
  polygons = _outline(shape)
  ticks = ((np.arange(RESOLUTION) + 0.5) / RESOLUTION * 2 - 1) * REACH
  y, x = np.meshgrid(ticks, ticks, indexing="ij")
  points = np.stack([x.ravel(), y.ravel()], axis=-1)
  table = _signed_distance(polygons, points)
  return table.reshape(x.shape).astype(np.float32)
