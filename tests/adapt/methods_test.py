"""The table of methods: choices, defaults, and what every method keeps to."""

import dataclasses
import functools
import inspect

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcal.adapt import base
from jaxcal.adapt import methods
from jaxcal.adapt import run
from jaxcal.adapt.prompt import methods as prompt_methods
from tests.adapt import small_tower

_K, _V, _D = 5, 21, 8
_STREAMS = ("tda", "boostadapter", "dmn", "dmn_weak", "dpe", "onzeta",
            "ecalp", "dynaprompt")


@functools.cache
def _task():
  rng = np.random.default_rng(0)
  text = rng.standard_normal((_K, _D)).astype(np.float32)
  weights = np.float32(rng.standard_normal((_K, _D, 2, 3)))

  def encode(weights, context):
    hidden = jnp.tanh(jnp.einsum("kdmw,mw->kd", weights, context))
    return hidden / jnp.linalg.norm(hidden, axis=-1, keepdims=True)

  encode = jax.tree_util.Partial(encode, jax.device_put(weights))
  context = np.float32(0.3 * rng.standard_normal((2, 3)))
  return base.Task(
      jax.jit(encode)(context), np.float32(20), encode, context,
      num_images=len(text), image_blocks=small_tower.blocks(_D))


def _views(n=6):
  views = np.random.default_rng(1).standard_normal((n, _V, _D))
  return np.float32(views / np.linalg.norm(views, axis=-1, keepdims=True))


def _method(name):
  share = {"selection_fraction": 0.3}
  known = methods.numbers_of(name)
  return methods.method(name, **{
      key: value for key, value in share.items() if key in known}).method()


def _seen(name, views):
  return small_tower.seen(methods.method(name), views)


# Of each method one program for all fast tests: compiling takes all the time.
_stream, _episodic = jax.jit(run.stream), jax.jit(run.episodic)


def _there_and_back(name, views):
  return _stream(_method(name), _task(), views,
                 np.stack([np.arange(6), np.arange(6)[::-1]]))


@functools.cache
def _streamed(name):
  """Outputs of the images there and back."""
  return _there_and_back(name, _seen(name, _views()))


class TableTest(parameterized.TestCase):

  def test_unknown_method_lists_the_choices(self):
    with self.assertRaisesRegex(
        ValueError, r"'otpt'; did you mean o_tpt .*\? choose from: .*soc"):
      methods.method("otpt")

  def test_unknown_number_lists_the_choices(self):
    with self.assertRaisesRegex(
        ValueError, "'soc' has no 'detla'; it has: .*weight, delta"):
      methods.method("soc", detla=0.5)

  def test_published_defaults(self):
    weights = {name: methods.numbers_of(name).get("weight")
               for name in methods.METHODS}
    self.assertEqual({k: v for k, v in weights.items() if v is not None}, {
        "c_tpt": 50, "c_tpt_two_step": 50, "o_tpt": 18, "o_tpt_published": 18,
        "a_tpt": 10, "a_tpt_inverted": 80, "soc": 30, "soc_quantile": 30})
    for name in ("tpt", *(k for k, v in weights.items() if v is not None)):
      numbers = methods.numbers_of(name)
      self.assertEqual((numbers["learning_rate"], numbers["weight_decay"],
                        numbers["selection_fraction"]), (5e-3, 1e-2, 0.1))

  def test_those_with_a_regulariser(self):
    found = [name for name, kind in methods.METHODS.items()
             if issubclass(kind, prompt_methods.PromptMethod) and
             kind().of_classes(_task().text_features).objective().regulariser]
    # Two have another one's, at turns of its own or with the other sign.
    others = {"c_tpt_two_step", "a_tpt_inverted"}
    self.assertEqual(
        [name for name in found if name not in others],
        list(methods.REGULARISED))
    self.assertContainsSubset(others, found)

  @parameterized.parameters(*methods.METHODS)
  def test_every_number_is_described(self, name):
    kind = methods.METHODS[name]
    about = "\n".join(inspect.getdoc(one) for one in kind.__mro__[:-1])
    for field in dataclasses.fields(kind):
      self.assertIn(f"{field.name}: ", about)


class ContractTest(parameterized.TestCase):
  """What runners, recalibrators and metrics may rely on."""

  @parameterized.parameters(*methods.METHODS)
  def test_outputs_are_distributions_and_their_argmax_is_the_scores(self, name):
    outputs = _streamed(name)
    self.assertEqual(outputs.scores.shape, (2, 6, _K))
    np.testing.assert_allclose(
        np.exp(outputs.log_probs).sum(-1), 1, rtol=1e-5)
    np.testing.assert_array_equal(
        np.argmax(outputs.log_probs, -1), np.argmax(outputs.scores, -1))
    for values in outputs.info.values():
      self.assertEqual(values.shape, (2, 6))
      self.assertTrue(np.isfinite(values).all())

  @parameterized.parameters(*methods.METHODS)
  def test_the_clean_view_is_row_zero(self, name):
    """Other orders of the random views change nothing."""
    order = np.r_[0, 1 + np.random.default_rng(0).permutation(_V - 1)]
    moved = jax.tree.map(lambda x: x[:, order], _seen(name, _views()))
    np.testing.assert_allclose(
        _streamed(name).log_probs, _there_and_back(name, moved).log_probs,
        atol=2e-4)

  @parameterized.parameters(*methods.METHODS)
  @pytest.mark.slow
  def test_only_methods_with_a_state_see_other_images(self, name):
    forth, back = np.asarray(_streamed(name).log_probs)
    has_state = base.has_state(_method(name), _task())
    self.assertEqual(has_state, name in _STREAMS)
    self.assertEqual(has_state, not np.allclose(forth, back, atol=1e-5))
    if not has_state:
      alone = _episodic(_method(name), _task(), _seen(name, _views()))
      np.testing.assert_allclose(alone.log_probs, forth, atol=2e-4)

  @parameterized.parameters(
      "tpt", "soc", "c_tpt_two_step", "rlcf", "r_tpt", "dynaprompt")
  def test_methods_that_tune_prompts_need_an_encoder(self, name):
    task = _task()._replace(encode=None, context=None)
    with self.assertRaisesRegex(ValueError, "tunes a prompt, but the task has "
                                "text features alone.*jaxcal.task_of"):
      jax.eval_shape(run.episodic, _method(name), task, _views())

  def test_zero_shot_needs_one_view_and_no_encoder(self):
    task, views = _task(), _views()
    bare = base.Task(task.text_features, 20.0)
    output = _episodic(
        methods.method("zero_shot").method(), bare, views[:, :1])
    np.testing.assert_allclose(
        output.scores, 20 * views[:, 0] @ task.text_features.T, atol=1e-5)
    probs = np.exp(np.float64(output.log_probs))
    np.testing.assert_allclose(
        output.info["entropy_before"], -(probs * np.log(probs)).sum(-1),
        rtol=1e-4)


if __name__ == "__main__":
  absltest.main()
