"""Class prompts: which words fit, and what templates are."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcal.clip import checkpoint
from jaxcal.clip import prompts
from jaxcal.clip import towers
from jaxcal.testbed import shipped
from jaxcal.tuning import classes


@functools.cache
def _model():
  return checkpoint.load(shipped.folder())


class ClassesTest(parameterized.TestCase):

  @parameterized.parameters(2, 4, 16)
  def test_words_that_fit_have_prompts_and_others_do_not(self, num_context):
    words = ["cat " * count + "dog" for count in range(40)]
    fitting = classes.fitting(_model(), words, num_context)
    bank = functools.partial(
        prompts.prompt_bank, _model().tokenizer,
        context_length=_model().config.context_length, template="{}.",
        eos_token_id=_model().config.eos_token_id,
        num_context_tokens=max(num_context, 4))
    self.assertNotEmpty(fitting)
    bank(fitting)
    for word in words[len(fitting):]:
      with self.assertRaisesRegex(ValueError, "positions, but"):
        bank([word])

  @pytest.mark.slow
  def test_templates_are_those_of_the_whole_tower(self):
    names, template = ("red circle", "star"), "a drawing of one {}, seen twice."
    config = _model().config
    bank = prompts.prompt_bank(
        _model().tokenizer, names, template=template,
        context_length=config.context_length, eos_token_id=config.eos_token_id,
        crop=False)
    found = classes.prompts_of(_model(), names, template=template)
    np.testing.assert_allclose(
        found.target, _model().text_features(bank), atol=1e-5)
    np.testing.assert_allclose(
        towers.normalise(found.embeddings), found.target, atol=1e-6)
    self.assertGreater(
        float(jnp.abs(jnp.linalg.norm(found.embeddings, axis=-1) - 1).max()),
        1e-3)

  @pytest.mark.slow
  def test_a_context_for_each_class(self):
    names = ("red circle", "star", "square")
    shared = classes.prompts_of(_model(), names)
    own = classes.prompts_of(_model(), names, per_class=True)
    words = classes.words_context(_model())
    contexts = jnp.stack([words, 2 * words, words[::-1]])
    rows = own.encode(contexts)
    for row, context in zip(range(3), contexts):
      np.testing.assert_allclose(
          rows[row], shared.encode(context)[row], atol=1e-5)


if __name__ == "__main__":
  absltest.main()
