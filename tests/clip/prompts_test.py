import functools

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcal.clip import prompts
from jaxcal.clip import towers
from tests import quick
from tests import shared
from tests.clip import tiny


class Words:
  """A tokenizer of whole words: start 28, end 29, the words in their order."""

  def __init__(self, words):
    self.ids = {word: i + 3 for i, word in enumerate(words.split())}

  def __call__(self, texts):
    if isinstance(texts, str):
      return {"input_ids": self._encode(texts)}
    return {"input_ids": [self._encode(text) for text in texts]}

  def _encode(self, text):
    words = text.replace(".", " . ").split()
    return [28, *(self.ids[word] for word in words), 29]


#                  3 4     5  6    7   8     9   10 11
TOKENIZER = Words("a photo of tall red house cat .  X")
BANK = functools.partial(
    prompts.prompt_bank, TOKENIZER, context_length=8, eos_token_id=29)


class ReferenceTest(parameterized.TestCase):

  @parameterized.parameters(
      ("words4", "a photo of a {}.", None), ("x4", "a photo of a {}.", 4),
      ("x2", "{}.", 2), ("x4words4", "X X X X a photo of a {}.", None),
      ("pet", "a photo of a {}, a type of pet.", None))
  def test_token_ids_of_the_few_shot_reference(self, key, template, num):
    import transformers
    folder = shared.path("oracles/few_shot")
    tokenizer = transformers.CLIPTokenizerFast.from_pretrained(
        folder / "hf_clip_tiny")
    with np.load(folder / "fewshot_oracle.npz") as oracle:
      for group in ("base", "new", "outlier"):
        bank = prompts.prompt_bank(
            tokenizer, oracle[f"names/{group}"].tolist(), template=template,
            context_length=24, eos_token_id=999, num_context_tokens=num,
            crop=False)
        np.testing.assert_array_equal(
            bank.token_ids, oracle[f"ids/{key}/{group}"])

  @parameterized.parameters("coop", "coop_middle", "coop_front", "coop_csc")
  def test_tuned_contexts_of_the_few_shot_reference(self, method):
    """Logits of the released prompt learner, class by class."""
    from jaxcal.clip import checkpoint
    folder = shared.path("oracles/few_shot")
    model = checkpoint.load(folder / "hf_clip_tiny")
    with np.load(folder / "fewshot_oracle.npz") as oracle:
      names = oracle["names/base"].tolist()
      images = oracle["zs/image_features"]
      scale = oracle["zs/logit_scale_exp"]
      context = oracle[f"{method}/init/ctx"]
      expected = oracle[f"{method}/logits_base_init"]
    place = method.removeprefix("coop_")
    bank = prompts.prompt_bank(
        model.tokenizer, names, context_length=24, eos_token_id=999,
        num_context_tokens=4,
        class_position=place if place in prompts.CLASS_POSITIONS else "end")
    with jax.enable_x64(True):
      params = jax.tree.map(
          lambda x: np.asarray(x, np.float64), model.params)
      encode = prompts.context_encoder(model.config, params, bank)
      text = np.asarray(encode(np.asarray(context, np.float64)))
      np.testing.assert_allclose(scale * images @ text.T, expected, atol=1e-9)


class PromptBankTest(parameterized.TestCase):

  @parameterized.named_parameters(
      # "a photo of" with "tall house": ids 3 4 5 with 6 8, period 10.
      ("end", "end", [28, 3, 4, 5, 6, 8, 10, 29], [1, 2, 3]),
      ("middle", "middle", [28, 3, 6, 8, 4, 5, 10, 29], [1, 4, 5]),
      ("front", "front", [28, 6, 8, 3, 4, 5, 10, 29], [3, 4, 5]))
  def test_class_positions(self, class_position, ids, positions):
    bank = BANK(["tall_house"], template="a photo of {}.",
                class_position=class_position)
    self.assertEqual(bank.token_ids.tolist(), [ids])
    self.assertEqual(bank.context_positions.tolist(), [positions])
    self.assertEqual(bank.end_positions.tolist(), [7])

  def test_positions_differ_where_names_differ_in_length(self):
    bank = BANK(["cat", "red house"], template="a of {}.",
                class_position="front")
    self.assertEqual(bank.token_ids.tolist(), [
        [28, 9, 3, 5, 10, 29, 0], [28, 7, 8, 3, 5, 10, 29]])
    self.assertEqual(bank.context_positions.tolist(), [[2, 3], [3, 4]])
    self.assertEqual(bank.end_positions.tolist(), [5, 6])

  def test_placeholders_of_any_number(self):
    bank = BANK(["cat"], num_context_tokens=3, class_position="middle")
    self.assertEqual(bank.token_ids.tolist(), [[28, 11, 9, 11, 11, 10, 29]])
    self.assertEqual(bank.context_positions.tolist(), [[1, 3, 4]])

  def test_no_context(self):
    bank = BANK(["cat"], template="{} photo")
    self.assertEqual(bank.token_ids.tolist(), [[28, 9, 4, 29]])
    self.assertEqual(bank.context_positions.shape, (1, 0))

  def test_words_after_the_name_stay(self):
    bank = BANK(["cat", "house"], template="a photo of {} tall.")
    self.assertEqual(bank.token_ids[1].tolist(), [28, 3, 4, 5, 8, 6, 10, 29])
    self.assertEqual(bank.context_positions.tolist(), [[1, 2, 3]] * 2)

  @pytest.mark.slow
  def test_crop(self):
    names = ["cat", "tall_cat", "cat"]  # a name may occur twice
    cropped, whole = (
        BANK(names, template="a {}.", crop=crop) for crop in (True, False))
    self.assertEqual(cropped.token_ids.shape, (3, 6))
    self.assertEqual(whole.token_ids.shape, (3, 8))
    params = tiny.params()
    context = np.random.default_rng(0).standard_normal((1, 16), np.float32)
    short, long = (
        jax.jit(prompts.context_encoder(tiny.CONFIG, params, bank))(context)
        for bank in (cropped, whole))
    np.testing.assert_allclose(short, long, atol=1e-6)
    np.testing.assert_array_equal(short[0], short[2])
    self.assertGreater(np.abs(short[0] - short[1]).max(), 1e-3)

  @parameterized.parameters(
      ([], {}, "at least one, got"),
      ("cat", {}, "sequence of class names.*'cat'"),
      (["cat", "_ "], {}, "class 1 has an empty name: '_ '"),
      (["cat"], {"template": "a photo"}, "exactly once, got 'a photo'"),
      (["cat"], {"template": "{} {}"}, "exactly once"),
      (["cat"], {"class_position": "last"},
       "unknown class position 'last'; choose from: end, middle, front"),
      (["cat", "tall red house"], {},
       "8 positions, but 'tall red house' needs 10; shorten"),
      (["cat"], {"num_context_tokens": -1}, "to be 0 or more"),
      (["cat"], {"eos_token_id": 27}, "prompt 0 has no end token 27"),
  )
  def test_errors(self, names, settings, message):
    with self.assertRaisesRegex(ValueError, message):
      BANK(names, **settings)

  def test_words_that_melt_into_the_name(self):
    class Pairs(Words):

      def _encode(self, text):
        return super()._encode(text.replace("a cat", "red"))

    with self.assertRaisesRegex(ValueError, "words before 'cat'.*other"):
      prompts.prompt_bank(
          Pairs("a photo of red . cat"), ["cat"], context_length=8,
          eos_token_id=29)

  def test_a_placeholder_of_several_tokens(self):
    class Letters(Words):

      def _encode(self, text):
        return super()._encode(text.replace("X", "a a"))

    with self.assertRaisesRegex(ValueError, "2 placeholders 'X' became 4"):
      prompts.prompt_bank(
          Letters("a cat ."), ["cat"], context_length=8, eos_token_id=29,
          num_context_tokens=2)


class EndPositionsTest(absltest.TestCase):

  def test_rules(self):
    ids = [[28, 5, 29, 29, 29], [28, 29, 30, 0, 0]]
    self.assertEqual(prompts.end_positions(ids, 29).tolist(), [2, 1])
    # The value 2 asks for the highest id; of equal ones the first counts.
    self.assertEqual(prompts.end_positions(ids, 2).tolist(), [2, 2])
    with self.assertRaisesRegex(ValueError, r"prompt 0 has no end token 30"):
      prompts.end_positions(ids, 30)


class FromTokenIdsTest(parameterized.TestCase):

  def test_shared_positions_are_repeated(self):
    bank = prompts.from_token_ids(np.ones((3, 5), int), [1, 2], [3, 4, 3])
    self.assertEqual(bank.context_positions.tolist(), [[1, 2]] * 3)
    for array in bank:
      self.assertEqual(array.dtype, jnp.int32)

  @parameterized.parameters(
      ([1, 2], [1], [3], r"token ids of shape \[k, t\]"),
      ([[1, 2]], [0], [1, 1], r"end positions of shape \[k\]"),
      ([[1, 2]], [[0], [0]], [1], r"\[m\] or \[1, m\]"),
      ([[1, 2]], [0], [2], "end positions outside rows of 2"),
      ([[1, 2]], [0], [-1], "end positions outside"),
      ([[1, 2]], [1], [1], "before the end token"),
      ([[1, 2]], [-1], [1], "before the end token"),
      ([[1, 2, 3]], [0, 0], [2], "occurs twice"),
  )
  def test_errors(self, ids, context, ends, message):
    with self.assertRaisesRegex(ValueError, message):
      prompts.from_token_ids(ids, context, ends)


def _params64():
  return jax.tree.map(lambda x: np.asarray(x, np.float64), tiny.params())


class ContextTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    rng = np.random.default_rng(0)
    self.embeddings = rng.standard_normal((3, 6, 16), np.float32)
    self.positions = np.array([[1, 2], [2, 4], [3, 1]])
    self.context = rng.standard_normal((3, 2, 16), np.float32)

  def test_insert_against_a_loop(self):
    for context in (self.context, self.context[0]):
      expected = self.embeddings.copy()
      for k in range(3):
        for m in range(2):
          vectors = context[k] if context.ndim == 3 else context
          expected[k, self.positions[k, m]] = vectors[m]
      np.testing.assert_array_equal(
          prompts.insert_context(self.embeddings, context, self.positions),
          expected)

  def test_insert_refuses_another_shape(self):
    for shape in ((3, 16), (2, 8), (2, 2, 16)):
      with self.assertRaisesRegex(ValueError, r"\[2, 16\] or \[3, 2, 16\]"):
        prompts.insert_context(
            self.embeddings, np.zeros(shape), self.positions)

  def test_the_initial_context_changes_nothing(self):
    bank = BANK(["cat", "tall house"], template="a photo of {}.")
    params = tiny.params()
    context = prompts.initial_context(params, bank)
    table = params["text_model"]["embeddings"]["token_embedding"]["embedding"]
    np.testing.assert_array_equal(context, table[[3, 4, 5]])
    encode = prompts.context_encoder(tiny.CONFIG, params, bank)
    plain = towers.text_features(
        tiny.CONFIG, params, towers.token_embeddings(params, bank.token_ids),
        bank.end_positions)
    np.testing.assert_allclose(encode(context), plain, atol=1e-6)
    context, plain = np.asarray(context), np.asarray(plain)
    per_class = np.asarray(encode(np.stack([context, context[:, ::-1]])))
    self.assertGreater(np.abs(per_class[1] - plain[1]).max(), 1e-3)
    np.testing.assert_allclose(per_class[0], plain[0], atol=1e-6)

  def test_before_the_projection(self):
    params, bank = tiny.params(), BANK(["cat", "tall house"], template="a {}.")
    encode = prompts.context_encoder(tiny.CONFIG, params, bank)
    context = prompts.initial_context(params, bank)
    pooled = encode.pooled(context)
    np.testing.assert_allclose(pooled, towers.pooled_text(
        tiny.CONFIG, params, towers.token_embeddings(params, bank.token_ids),
        bank.end_positions), atol=1e-6)
    self.assertIsNone(encode.projection.bias)
    embeddings = np.asarray(pooled) @ params["text_projection"]["kernel"]
    np.testing.assert_allclose(
        encode(context),
        embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True),
        atol=1e-6)

  def test_the_encoder_passes_through_jit(self):
    params = [tiny.params(seed=seed) for seed in range(2)]
    banks = [BANK([name], template="a {}.") for name in ("cat", "red")]

    @jax.jit
    @chex.assert_max_traces(n=1)  # in spite of other weights and names
    def features(encode, context):
      return encode(context)

    for weights, bank in zip(params, banks):
      encode = prompts.context_encoder(tiny.CONFIG, weights, bank)
      context = prompts.initial_context(weights, bank)
      np.testing.assert_allclose(
          features(encode, context), encode(context), atol=1e-6)
    for leaf in jax.tree.leaves(encode):
      self.assertIsInstance(leaf, (jax.Array, np.ndarray))

  def test_gradient_against_differences(self):
    bank = BANK(["cat", "tall house"], template="a {}.", class_position="front")
    with jax.enable_x64(True):
      params = _params64()
      encode = prompts.context_encoder(tiny.CONFIG, params, bank)
      weights = np.random.default_rng(1).standard_normal((2, 5))

      @quick.jit
      def loss_and_gradient(encode, context):
        return jax.value_and_grad(
            lambda context: (weights * encode(context)).sum())(context)

      context = np.asarray(prompts.initial_context(params, bank))
      step = 1e-5 * np.random.default_rng(2).standard_normal(context.shape)
      (above, _), (below, _), (_, gradient) = (
          map(np.asarray, loss_and_gradient(encode, context + moved))
          for moved in (step, -step, 0 * step))
      np.testing.assert_allclose(
          (gradient * step).sum(), (above - below) / 2, rtol=1e-6)

  @parameterized.parameters("shared", "own", "deep")
  @pytest.mark.slow
  def test_chunks_and_some_rows(self, kind):
    bank = BANK(["cat", "a cat", "tall house", "house"], template="a {}.")
    with jax.enable_x64(True):
      params = _params64()
      whole = prompts.context_encoder(tiny.CONFIG, params, bank)
      shape, rng = whole.context_shape, np.random.default_rng(1)
      context = rng.standard_normal((4, *shape) if kind == "own" else shape)
      deep = (jax.device_put(rng.standard_normal((1, *shape)))
              if kind == "deep" else None)
      weights = rng.standard_normal((4, 5))

      @quick.jit
      def pulled(encode, context):
        features, pull_back = jax.vjp(
            lambda context: encode(context, deep=deep), context)
        return features, pull_back(weights)[0]

      features, gradient = pulled(whole, context)
      for size in (1, 3):
        chunked = prompts.context_encoder(
            tiny.CONFIG, params, bank, classes_per_chunk=size)
        for ours, expected in zip(pulled(chunked, context),
                                  (features, gradient)):
          np.testing.assert_allclose(ours, expected, atol=1e-12)
      rows = np.array([2, 0, 2])
      some = whole.take(rows)(
          context[rows] if kind == "own" else context, deep=deep)
      np.testing.assert_allclose(some, features[rows], atol=1e-12)


if __name__ == "__main__":
  absltest.main()
