"""Vocabularies, their ranking, and what is drawn from them."""

import pathlib

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.tuning import outliers
from tests import error_bars
from tests import shared

_LICENCE = "  1 This software and database is being provided to you\n"
_NOUNS = (
    # A word, and the same one in another synset.
    "00001740 03 n 01 entity 0 003 ~ 00001930 n 0000 ~ 00002137 n 0000 "
    "~ 04424418 n 0000 | that which exists; \"a | in the gloss\"\n",
    # Ten words, 0a in hexadecimal.
    "00002137 03 n 0a sea_lion 0 Sea_Lion 1 x-ray 0 cat's-paw 0 9/11 0 e.g. 0 "
    "zebra 0 entity 4 -x 0 café 0 001 @ 00001740 n 0000 | many\n",
    # An instance, and one that only has instances.
    "00003000 15 n 02 paris 0 city_of_light 0 002 @i 00001740 n 0000 "
    "#p 00001930 n 0000 | capital\n",
    "00004000 15 n 01 city 0 001 ~i 00003000 n 0000 | of stone\n",
    "00005000 03 n 01 orphan 0 000 | no pointers\n",
)


def _oracle():
  return shared.arrays("oracles/few_shot/fewshot_oracle.npz")


class WordNetTest(absltest.TestCase):

  def _folder(self, *lines):
    folder = pathlib.Path(self.create_tempdir())
    (folder / "data.noun").write_text("".join(lines), encoding="utf-8")
    return folder

  def test_common_nouns(self):
    self.assertEqual(
        outliers.from_wordnet(self._folder(_LICENCE, *_NOUNS)),
        ("cat's-paw", "city", "entity", "orphan", "sea lion", "x-ray", "zebra"))

  def test_missing(self):
    with self.assertRaisesRegex(
        FileNotFoundError, "nowhere/data.noun.*apt-get install wordnet-base.*"
        "from_file.*from_tokenizer"):
      outliers.from_wordnet("nowhere")

  def test_other_files(self):
    for line in ("entity 1 1 @ 1 1 00001740\n", "\n",
                 _NOUNS[0].replace(" n 01 ", " n 02 "),
                 _NOUNS[0].replace(" n 01 ", " v 01 ")):
      with self.assertRaisesRegex(ValueError, "data.noun, line 2 is not a syn"):
        outliers.from_wordnet(self._folder(_NOUNS[0], line))

  def test_whole_of_wordnet(self):
    if not pathlib.Path(outliers.WORDNET, "data.noun").exists():
      self.skipTest("wordnet-base is not installed")
    words = outliers.from_wordnet()
    self.assertLen(words, 78_295)
    self.assertEqual((words[0], words[-1]), ("a", "zymurgy"))


class OtherSourcesTest(absltest.TestCase):

  def test_file(self):
    path = self.create_tempfile(
        content="sea_lion\n\n  Zebra \r\nsea  lion\ncafé\n").full_path
    self.assertEqual(
        outliers.from_file(path), ("sea lion", "Zebra", "café"))
    with self.assertRaisesRegex(ValueError, "holds no words"):
      outliers.from_file(self.create_tempfile(content=" \n").full_path)
    with self.assertRaisesRegex(FileNotFoundError, "no-such-file"):
      outliers.from_file("no-such-file")

  def test_tokenizer(self):

    class Tokenizer:

      def __init__(self, *tokens):
        self.get_vocab = lambda: {token: i for i, token in enumerate(tokens)}

    self.assertEqual(outliers.from_tokenizer(Tokenizer(
        "zebra</w>", "cat", "cat</w>", "an</w>", "<|endoftext|>", "c4t</w>",
        "Ã©tÃ©</w>", "</w>")), ("cat", "zebra"))
    with self.assertRaisesRegex(ValueError, "no whole words .*from_wordnet"):
      outliers.from_tokenizer(Tokenizer("▁zebra"))


class NamesTest(absltest.TestCase):

  def test_exclude_and_overlap(self):
    words = ("sea lion", "Zebra", "annual crop land", "x-ray")
    names = ("Sea_Lion", "lion", "zebra", "Annual  Crop_Land")
    self.assertEqual(outliers.exclude(words, names), ("x-ray",))
    self.assertEqual(
        outliers.overlap(words, names),
        ("Sea_Lion", "zebra", "Annual  Crop_Land"))
    self.assertEqual(outliers.overlap(outliers.exclude(words, names), names),
                     ())

  def test_nothing_left(self):
    with self.assertRaisesRegex(ValueError, "of 1 words none is left .* 2 nam"):
      outliers.exclude(["zebra"], ["Zebra", "cat"])


class RankTest(absltest.TestCase):

  def test_stored_ranking(self):
    oracle = _oracle()
    text = oracle["zs/text_raw/words4/base"]
    base = text / np.linalg.norm(text, axis=1, keepdims=True)
    with jax.enable_x64(True):
      found = outliers.rank(
          oracle["outlier/zs_features"], base)
      order = oracle["outlier/rank"]
      np.testing.assert_array_equal(found.positions, order)
      np.testing.assert_allclose(
          found.similarity, oracle["outlier/mean_cos_to_base"][order],
          rtol=1e-9)
      best = outliers.rank(
          oracle["outlier/zs_features"], base, 3)
      np.testing.assert_array_equal(best.positions, order[:3])

  def test_equal_words_keep_their_order(self):
    features = np.eye(2)[[0, 1, 0, 1, 1]]
    found = outliers.rank(features, np.array([[0.0, 1.0]]))
    self.assertEqual(found.positions.tolist(), [1, 3, 4, 0, 2])

  def test_half_precision_is_widened(self):
    found = outliers.rank(
        *[np.eye(2, dtype=jnp.bfloat16)] * 2)
    self.assertEqual(found.similarity.dtype, jnp.float32)

  def test_what_is_refused(self):
    with self.assertRaisesRegex(ValueError, "at least 1 word"):
      outliers.rank(np.eye(2), np.eye(2), 0)
    for base in (np.eye(3), np.zeros((0, 2)), np.zeros(2)):
      with self.assertRaisesRegex(ValueError, "base features"):
        outliers.rank(np.eye(2), base)


class DrawTest(parameterized.TestCase):

  def _steps(self, draw, steps, num_words, num_drawn, seed=0):
    key = jax.random.key(seed)
    draw = jax.jit(draw, static_argnames=("num_words", "num_drawn"))
    return np.stack([draw(key, step, num_words=num_words, num_drawn=num_drawn)
                     for step in steps])

  @parameterized.parameters((12, 4), (11, 4), (5, 5), (7, 5))
  def test_passes_do_not_repeat(self, num_words, num_drawn):
    per_pass = num_words // num_drawn
    drawn = self._steps(
        outliers.shuffled, range(60 * per_pass), num_words, num_drawn)
    passes = drawn.reshape(60, -1)
    for words in passes:
      self.assertLen(set(words.tolist()), per_pass * num_drawn)
    self.assertGreater(len({tuple(words) for words in passes.tolist()}), 30)
    # Over the passes, every word has its share.
    counts = np.bincount(passes.ravel(), minlength=num_words)
    least, most = error_bars.binomial_band(
        60, per_pass * num_drawn / num_words)
    self.assertBetween(counts.min(), least, most)
    self.assertBetween(counts.max(), least, most)

  def test_independent_draws(self):
    drawn = self._steps(outliers.iid, range(200), 9, 3)
    self.assertTrue(all(len(set(words)) == 3 for words in drawn.tolist()))
    counts = np.bincount(drawn.ravel(), minlength=9)
    least, most = error_bars.binomial_band(200, 3 / 9)
    self.assertBetween(counts.min(), least, most)
    self.assertBetween(counts.max(), least, most)
    # Unlike in a pass, words come again in the next step.
    again = [set(a) & set(b) for a, b in zip(drawn[::3].tolist(),
                                             drawn[1::3].tolist())]
    # Three of nine others share none with a chance of 20 / 84.
    self.assertBetween(sum(map(bool, again)), *error_bars.binomial_band(
        len(again), 64 / 84))

  def test_fixed_words(self):
    drawn = self._steps(outliers.fixed, range(5), 50, 3)
    self.assertLen(set(map(tuple, drawn.tolist())), 1)
    self.assertLen(set(drawn[0].tolist()), 3)
    other = self._steps(outliers.fixed, range(1), 50, 3, seed=1)
    self.assertNotEqual(drawn[0].tolist(), other[0].tolist())

  @parameterized.parameters(*outliers.DRAWS)
  def test_starts_anywhere(self, name):
    draw = outliers.DRAWS[name]
    key = jax.random.key(3)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def jitted(key, step):
      return draw(key, step, num_words=20, num_drawn=6)

    for step in (0, 1, 5, 17):
      np.testing.assert_array_equal(
          jitted(key, jnp.int32(step)),
          draw(key, step, num_words=20, num_drawn=6))
    # The rows of an epoch, all at once.
    rows = jax.jit(jax.vmap(
        lambda step: draw(key, step, num_words=20, num_drawn=6)))(
            jnp.arange(5, 9))
    np.testing.assert_array_equal(rows[0], jitted(key, jnp.int32(5)))
    np.testing.assert_array_equal(rows[3], jitted(key, jnp.int32(8)))

  @parameterized.parameters(*outliers.DRAWS)
  def test_all_where_there_are_few(self, name):
    drawn = self._steps(outliers.DRAWS[name], range(3), 4, 9)
    np.testing.assert_array_equal(
        np.sort(drawn, axis=1), [[0, 1, 2, 3]] * 3)

  @parameterized.product(
      draw=(outliers.shuffled, outliers.iid, outliers.fixed),
      numbers=((0, 1), (1, 0)))
  def test_what_is_refused(self, draw, numbers):
    with self.assertRaisesRegex(ValueError, "at least 1"):
      draw(jax.random.key(0), 0, num_words=numbers[0], num_drawn=numbers[1])


if __name__ == "__main__":
  absltest.main()
