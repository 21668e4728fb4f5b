"""Scenes: determinism, held-out pairs, and what the pixels show."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from jaxcal.testbed import digits
from jaxcal.testbed import scenes


def _draw(seed, **fixed):
  return scenes.draw(np.random.default_rng(seed), **fixed)


class ScenesTest(parameterized.TestCase):

  @parameterized.parameters(*scenes.STYLES)
  def test_same_seed_gives_the_same_bytes(self, style):
    for seed in range(5):
      one = scenes.render(_draw(seed, style=style))
      two = scenes.render(_draw(seed, style=style))
      self.assertEqual(one.tobytes(), two.tobytes())
      self.assertEqual(one.dtype, np.uint8)
      self.assertEqual(one.shape, (scenes.SIDE, scenes.SIDE, 3))

  def test_other_seed_gives_another_image(self):
    images = {scenes.render(_draw(seed)).tobytes() for seed in range(20)}
    self.assertLen(images, 20)

  def test_held_out_pairs_are_not_drawn(self):
    pairs = set()
    for seed in range(3000):
      scene = _draw(seed)
      pairs.add((scene.colour, scene.subject))
      pairs |= {(d.colour, d.shape) for d in scene.distractors}
    names = {(scenes.COLOURS[c], scenes.SHAPES[s]) for c, s in pairs}
    self.assertEmpty(names & scenes.HELD_OUT)
    # Of the pairs that may be seen hardly any is missing.
    everything = len(scenes.COLOURS) * len(scenes.SHAPES)
    self.assertGreater(
        len(names), 0.98 * (everything - len(scenes.HELD_OUT)))

  def test_held_out_pairs_stay_out_when_one_half_is_fixed(self):
    for colour, shape in sorted(scenes.HELD_OUT):
      for seed in range(10):
        drawn = scenes.SHAPES[_draw(seed, colour=colour).subject]
        self.assertNotIn((colour, drawn), scenes.HELD_OUT)
        drawn = scenes.COLOURS[_draw(seed, shape=shape).colour]
        self.assertNotIn((drawn, shape), scenes.HELD_OUT)

  def test_held_out_pair_on_demand(self):
    for colour, shape in sorted(scenes.HELD_OUT):
      scene = _draw(1, colour=colour, shape=shape)
      self.assertEqual(scenes.COLOURS[scene.colour], colour)
      self.assertEqual(scenes.SUBJECTS[scene.subject], shape)
      for distractor in scene.distractors:
        pair = (scenes.COLOURS[distractor.colour],
                scenes.SHAPES[distractor.shape])
        self.assertNotIn(pair, scenes.HELD_OUT)

  def test_held_out_pairs_spare_every_part(self):
    # Each colour and each shape is held out somewhere and seen elsewhere.
    self.assertLen(scenes.HELD_OUT, 48)
    for position, names in enumerate((scenes.BASIC_COLOURS, scenes.SHAPES)):
      counts = [sum(pair[position] == name for pair in scenes.HELD_OUT)
                for name in names]
      self.assertGreaterEqual(min(counts), 2)
      self.assertLessEqual(max(counts), 4)

  def test_subject_has_its_colour(self):
    for colour in ("red", "green", "blue", "white", "black"):
      scene = _draw(3, colour=colour, shape="square", style="photo")
      camera = scene.camera._replace(
          light=0., blur=0., contrast=1., gain=np.ones(3), noise=0.)
      pose = scenes.Pose(0., 0., .9, 0.)
      scene = scene._replace(camera=camera, pose=pose, texture=0)
      centre = scenes.render(scene)[24:40, 24:40] / 255
      np.testing.assert_allclose(
          centre.mean(axis=(0, 1)), scenes.PALETTE[colour], atol=.15)

  def test_background_contrasts_with_the_subject(self):
    for seed in range(300):
      scene = _draw(seed)
      if scene.background.colour >= 0:
        one = scenes.PALETTE[scenes.COLOURS[scene.colour]]
        two = scenes.PALETTE[scenes.COLOURS[scene.background.colour]]
        self.assertGreater(np.linalg.norm(np.subtract(one, two)), .5)

  def test_pose_moves_the_subject(self):
    scene = _draw(0, shape="circle", colour="black", style="drawing")
    scene = scene._replace(distractors=(), background=scene.background._replace(
        rgb=np.ones(3), strength=0., gradient=0.))
    for x, y in ((-.4, .3), (.5, -.5)):
      posed = scene._replace(pose=scenes.Pose(x, y, .4, 0.))
      rows, columns = np.nonzero(scenes.render(posed).mean(axis=-1) < 128)
      self.assertAlmostEqual((columns.mean() + .5) / 32 - 1, x, delta=.02)
      self.assertAlmostEqual((rows.mean() + .5) / 32 - 1, y, delta=.02)

  def test_digit_is_its_scan(self):
    scan = digits.split("test")[3]
    scene = _draw(0, scan=scan)
    self.assertEqual(
        scenes.SUBJECTS[scene.subject],
        f"handwritten {digits.NAMES[digits.labels()[scan]]}")
    self.assertEqual(scenes.STYLES[scene.style], "photo")
    other = scene._replace(scan=digits.split("test")[4])
    self.assertNotEqual(
        scenes.render(scene).tobytes(), scenes.render(other).tobytes())

  def test_errors(self):
    with self.assertRaisesRegex(ValueError, "unknown shape 'hexagon'"):
      _draw(0, shape="hexagon")
    with self.assertRaisesRegex(ValueError, "unknown colour 'puce'"):
      _draw(0, colour="puce")
    with self.assertRaisesRegex(ValueError, "choose from: photo"):
      _draw(0, style="fresco")
    with self.assertRaisesRegex(ValueError, "not both"):
      _draw(0, shape="circle", scan=0)


if __name__ == "__main__":
  absltest.main()
