"""DynaPrompt: which prompts an image chooses, against lists, and the rest."""

import dataclasses

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
from jax.tree_util import Partial
import numpy as np

from jaxcal.adapt import base
from jaxcal.adapt import run
from jaxcal.adapt.prompt import dynamic

_K, _M, _W, _D, _V = 4, 2, 3, 6, 10


def _features(weights, context):
  hidden = jnp.tanh(jnp.einsum("kdmw,mw->kd", weights, context))
  return hidden / jnp.linalg.norm(hidden, axis=-1, keepdims=True)


def _data(num_images=12):
  rng = np.random.default_rng(0)
  encode = Partial(_features, jax.device_put(
      np.float32(rng.standard_normal((_K, _D, _M, _W)))))
  context = jax.device_put(np.float32(0.3 * rng.standard_normal((_M, _W))))
  views = rng.standard_normal((num_images, _V, _D))
  views /= np.linalg.norm(views, axis=-1, keepdims=True)
  text = jax.jit(lambda encode, context: encode(context))(encode, context)
  task = base.Task(text, np.float32(10.0), encode, context)
  return task, jax.device_put(np.float32(views))


def _by_lists(logits, queue, by_position):
  """The prompts in the order in which they are chosen, and the queue then."""
  probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  entropy = -(probs * np.log(probs)).sum(-1).mean(1)
  highest = logits.max(-1)
  gain = highest[:, 0] - highest[:, 1:].mean(1)
  by_entropy = sorted(range(len(queue)), key=lambda p: -entropy[p])
  by_gain = sorted(range(len(queue)), key=lambda p: -gain[p])
  place = by_entropy.index(queue[0])
  found = sorted(set(by_entropy[min(place + 1, len(queue) - 1):]) &
                 set(by_gain[:place]))
  if by_position:
    found = [by_entropy[p] for p in found]
  elif queue[0] in found:
    found.remove(queue[0])
  chosen = found + [queue[0]]
  queue = list(queue)
  for prompt in chosen:
    queue.remove(prompt)
    queue.append(prompt)
  return chosen, queue


class ChooseTest(parameterized.TestCase):

  @parameterized.parameters(True, False)
  def test_lists(self, by_position):
    choose = jax.jit(dynamic.choose, static_argnames="by_position")
    rng = np.random.default_rng(1)
    sizes = []
    for _ in range(200):
      logits = 3 * rng.standard_normal((6, 5, 4)).astype(np.float32)
      queue = rng.permutation(6)
      chosen, after = _by_lists(logits, queue.tolist(), by_position)
      found = choose(logits, queue, by_position=by_position)
      np.testing.assert_array_equal(
          found.counts, np.bincount(chosen, minlength=6))
      np.testing.assert_array_equal(found.queue, after)
      sizes.append((len(chosen), len(set(chosen))))
    # Some images choose several, and by position one of them twice.
    self.assertGreater(max(sizes)[0], 2)
    self.assertEqual(any(one != other for one, other in sizes), by_position)

  def test_equal_prompts_take_turns(self):
    queue = jnp.asarray([2, 0, 1])
    choice = dynamic.choose(jnp.ones((3, 5, 4)), queue)
    np.testing.assert_array_equal(choice.queue, [0, 1, 2])
    self.assertEqual(choice.counts[2], 1)


class DynaPromptTest(parameterized.TestCase):

  def _stream(self, numbers, task, views):
    states, outputs = run.advance(
        numbers.method(), task, run.begin(numbers.method(), task, 1), views,
        jnp.arange(len(views))[None])
    return jax.tree.map(lambda x: np.asarray(x[0]), (states, outputs))

  def _numbers(self, **changed):
    return dynamic.DynaPrompt(
        **{"num_prompts": 3, "selection_fraction": 0.3, **changed})

  def test_a_rate_of_zero_is_zero_shot(self):
    task, views = _data()
    _, outputs = self._stream(self._numbers(learning_rate=0.0), task, views)
    np.testing.assert_allclose(
        outputs.scores, base.logits(task, views[:, 0]), atol=1e-5)

  def test_one_prompt_begins_anew_with_each_image(self):
    """Without the moments of the image before, it is TPT's step."""
    task, views = _data()
    numbers = self._numbers(num_prompts=1, reset_optimiser=True)
    state, outputs = self._stream(numbers, task, views)
    for image in (0, 5, 11):
      alone, output = self._stream(numbers, task, views[image:image + 1])
      np.testing.assert_allclose(
          output.scores[0], outputs.scores[image], atol=1e-4)
    np.testing.assert_allclose(alone.offsets, state.offsets, atol=1e-6)
    # A sign step on offsets of zero.
    np.testing.assert_allclose(np.abs(state.offsets), 5e-3, rtol=1e-3)

  def test_with_the_moments_kept_the_images_before_matter(self):
    task, views = _data()
    kept = self._stream(self._numbers(num_prompts=1), task, views)
    reset = self._stream(
        self._numbers(num_prompts=1, reset_optimiser=True), task, views)
    np.testing.assert_allclose(
        kept[1].scores[0], reset[1].scores[0], atol=1e-4)
    self.assertGreater(
        np.abs(kept[1].scores[1:] - reset[1].scores[1:]).max(), 1e-3)

  def test_text_features_follow_from_the_offsets(self):
    task, views = _data()
    state, _ = self._stream(self._numbers(), task, views)
    for offset, features in zip(state.offsets, state.text_features):
      np.testing.assert_allclose(
          features, task.encode(task.context + offset), atol=1e-6)
    at = dynamic.state_at(self._numbers(), task, jnp.asarray(state.offsets))
    np.testing.assert_allclose(
        at.text_features, state.text_features, atol=1e-6)

  def test_used_prompts_begin_anew(self):
    task, views = _data()
    numbers = self._numbers(learning_rate=0.3)
    step = jax.jit(lambda task, state, views: numbers.method().step(
        task, state, views))
    state = numbers.method().init(task)
    renewed = 0
    for image in views:
      used_up = bool((state.uses > 0).all())
      first = int(state.queue[0])
      before = state
      state, output = step(task, state, image)
      self.assertEqual(int(state.queue[-1]), first)
      if used_up:
        # At most two: it may be found as well.
        self.assertLessEqual(int(state.uses[first]), 2)
        self.assertGreater(np.abs(before.offsets[first]).max(), 0.1)
        renewed += 1
      self.assertGreaterEqual(float(output.info["num_chosen"]), 1)
    self.assertGreater(renewed, 0)

  def test_two_streams_at_once(self):
    task, views = _data()
    method = self._numbers().method()
    orders = jnp.stack([jnp.arange(12), jnp.arange(12)[::-1]])
    together = jax.jit(run.stream)(method, task, views, orders)
    for order, scores in zip(orders, together.scores):
      alone = jax.jit(run.stream)(method, task, views, order[None])
      np.testing.assert_allclose(scores, alone.scores[0], atol=1e-4)

  def test_refusals(self):
    task, views = _data()
    with self.assertRaisesRegex(ValueError, "num_prompts must be an integer"):
      dynamic.DynaPrompt(num_prompts=0).method()
    bare = task._replace(encode=None, context=None)
    with self.assertRaisesRegex(ValueError, "DynaPrompt tunes a prompt, but"):
      self._stream(self._numbers(), bare, views)
    # What a run must know before it has an encoder.
    self.assertTrue(base.has_state(self._numbers().method(), bare))
    with self.assertRaisesRegex(ValueError, "keeps none"):
      self._stream(self._numbers(selection_fraction=0.01), task, views)

  def test_what_it_costs(self):
    self.assertEqual(base.num_contexts(self._numbers()), 3)
    self.assertTrue(dataclasses.is_dataclass(self._numbers()))


if __name__ == "__main__":
  absltest.main()
