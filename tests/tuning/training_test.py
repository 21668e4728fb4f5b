"""The loop: schedule, stored steps of every method, seeds, resuming."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxcal.tuning import cocoop
from jaxcal.tuning import coop
from jaxcal.tuning import dor
from jaxcal.tuning import kgcoop
from jaxcal.tuning import prograd
from jaxcal.tuning import training
from tests import quick
from tests.tuning import oracle as oracle_lib

# By stored name: how the method is made, its prompts, its outliers' weight.
_WORDS, _RANDOM = {"ids": "words4"}, {"ids": "x4"}
_EIGHT = {"ids": "x4words4", "num_context": 8}
_METHODS = {
    "coop": (coop.method, _RANDOM, None),
    "coop_words": (coop.method, _WORDS, None),
    "coop_middle": (coop.method, _RANDOM | {"class_position": "middle"}, None),
    "coop_front": (coop.method, _RANDOM | {"class_position": "front"}, None),
    "coop_csc": (coop.class_specific, _RANDOM | {"plain": True}, None),
    "cocoop": (cocoop.method, _WORDS, None),
    "cocoop_b1": (cocoop.method, _WORDS, None),
    "kgcoop": (kgcoop.method, _WORDS, None),
    "kgcoop_random": (kgcoop.method, _WORDS, None),
    "prograd_agree": (prograd.method, _EIGHT, None),
    "prograd_conflict": (prograd.method, _EIGHT, None),
    "prograd_conflict_l08": (prograd.method, _EIGHT, None),
    "prograd_words": (prograd.method, _EIGHT, None),
    "dor_coop": (coop.method, _RANDOM, 8.0),
    "dor_cocoop": (cocoop.method, _WORDS, 2.0),
    "dor_cocoop_b4_last": (cocoop.method, _WORDS, 2.0),
    "dor_cocoop_b4_mean": (cocoop.method, _WORDS, 2.0),
    "dor_kgcoop": (kgcoop.method, _WORDS, 2.0),
    "dor_kgcoop_random": (kgcoop.method, _WORDS, 2.0),
}
# Their stored steps see one image each.
_ONE_IMAGE = ("cocoop_b1", "dor_cocoop")

# One object, so that groups of the same shapes share a program.
_SGD = training.sgd(oracle_lib.LEARNING_RATE)


class ScheduleTest(parameterized.TestCase):

  @parameterized.parameters((0.0035, 5), (0.002, 50), (0.002, 200),
                            (0.0025, 20))
  def test_stored(self, learning_rate, num_epochs):
    self.enterContext(jax.enable_x64(True))
    oracle = oracle_lib.load()
    rate = training.schedule(learning_rate, num_epochs, 3)
    expected = oracle.stored[f"schedule/lr{learning_rate}_T{num_epochs}"]
    rates = np.asarray(quick.jit(jax.vmap(rate))(
        np.r_[:3 * num_epochs, 10**6]))
    np.testing.assert_allclose(rates[:-1], np.repeat(expected, 3), rtol=1e-14)
    self.assertEqual(rates[-1], rates[-2])

  def test_errors(self):
    with self.assertRaisesRegex(ValueError, "num_epochs=0"):
      training.schedule(0.1, 0, 1)
    with self.assertRaisesRegex(ValueError, "batch_size=0"):
      training.num_steps(5, 0)


class OptimiserTest(parameterized.TestCase):

  @parameterized.parameters("sgd", "adam", "adamw")
  @pytest.mark.needs("torch")
  def test_is_pytorchs(self, name):
    import torch
    self.enterContext(jax.enable_x64(True))
    rng = np.random.default_rng(0)
    start, gradients = rng.standard_normal(5), rng.standard_normal((4, 5))
    weight = torch.nn.Parameter(torch.tensor(start))
    theirs = {
        "sgd": lambda p: torch.optim.SGD(
            p, lr=0.1, momentum=0.9, weight_decay=5e-4),
        "adam": lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=5e-4),
        "adamw": lambda p: torch.optim.AdamW(p, lr=0.1),
    }[name]([weight])
    ours = getattr(training, name)(0.1)

    @quick.jit
    def step(gradient, state, params):
      updates, state = ours.update(gradient, state, params)
      return state, optax.apply_updates(params, updates)

    params = start
    state = ours.init(params)
    for gradient in gradients:
      weight.grad = torch.tensor(gradient)
      theirs.step()
      state, params = step(gradient, state, params)
    np.testing.assert_allclose(params, weight.detach().numpy(), rtol=1e-12)


@pytest.mark.slow
class StoredStepsTest(parameterized.TestCase):

  @parameterized.parameters(*_METHODS)
  def test_three_steps(self, name):
    self.enterContext(jax.enable_x64(True))
    oracle = oracle_lib.load()
    stored = oracle.stored
    make, options, weight = _METHODS[name]
    method = make(logit_scale=oracle.logit_scale, **(
        {"strength": 0.8} if name.endswith("l08") else {}))
    base = oracle.prompts(group="base", **options)
    labels, outliers = oracle.labels, None
    if name.startswith("prograd"):
      labels = jnp.asarray(stored[f"{name}/labels"])
      base = base._replace(target=base.zero_shot)
    if weight is not None:
      method = dor.with_outliers(
          method, weight, last_image_only=name.endswith("last"))
      outliers = training.Outliers(
          oracle.prompts(group="outlier", **options),
          jnp.asarray(stored["outlier_idx"][1:]))
    rows = stored["batch_idx"]
    rows = jnp.asarray(rows[:, :1] if name in _ONE_IMAGE else rows)
    start = oracle_lib.params(stored, name, "init")
    state = training.State(
        start, _SGD.init(start), jax.tree.map(jnp.zeros_like, start),
        jnp.zeros((), jnp.int32), jax.random.key(0))
    state, parts = training.train_epoch(
        method, _SGD, state, base, training.Data(oracle.images, labels),
        training.Order(rows, rows[0, :0]), outliers)
    np.testing.assert_allclose(
        parts["loss"], stored[f"{name}/step_losses"], rtol=1e-9)
    jax.tree.map(
        oracle_lib.assert_relative, state.params,
        oracle_lib.params(stored, name, "final"))
    np.testing.assert_allclose(
        oracle_lib.logits(method, state.params, base, oracle.images),
        stored[f"{name}/logits_base_final"], atol=1e-7)
    if not name.endswith("csc"):
      new = oracle.prompts(group="new", **options)
      np.testing.assert_allclose(
          oracle_lib.logits(method, state.params, new, oracle.images),
          stored[f"{name}/logits_new_final"], atol=1e-7)


class LoopTest(parameterized.TestCase):
  """On seven images in batches of three."""

  def setUp(self):
    super().setUp()
    self.enterContext(jax.enable_x64(True))
    self.oracle = oracle_lib.load()
    self.method = dor.with_outliers(
        coop.method(logit_scale=self.oracle.logit_scale), 8.0)
    self.base, self.outliers = (
        self.oracle.prompts("x4", group) for group in ("base", "outlier"))
    self.data = training.Data(*jax.tree.map(
        lambda x: x[:7], (self.oracle.images, self.oracle.labels)))

  def _init(self, seed):
    return training.init(self.method, _SGD, self.base, jax.random.key(seed))

  def _rows(self, state, steps):
    key = jax.random.fold_in(state.key, 100 + state.epoch)
    return training.Outliers(
        self.outliers, jax.random.randint(key, (steps, 4), 0, 20))

  def _epoch(self, state, share=0.0, keep_last=False):
    order = training.shuffle(state, 7, 3, keep_last=keep_last)
    steps = training.num_steps(7, 3, keep_last=keep_last)
    return training.train_epoch(
        self.method, _SGD, state, self.base, self.data, order,
        self._rows(state, steps), share)

  def test_order(self):
    state = self._init(0)
    dropped = training.shuffle(state, 7, 3)
    kept = training.shuffle(state, 7, 3, keep_last=True)
    self.assertEqual(dropped.batches.shape, (2, 3))
    self.assertEqual((dropped.last.size, kept.last.size), (0, 1))
    np.testing.assert_array_equal(dropped.batches, kept.batches)
    everything = np.concatenate([kept.batches.ravel(), kept.last])
    self.assertCountEqual(everything, range(7))
    later = training.shuffle(
        state._replace(epoch=state.epoch + 1), 7, 3, keep_last=True)
    self.assertFalse(np.array_equal(later.batches, kept.batches))
    self.assertEqual(training.shuffle(state, 2, 3).batches.shape, (1, 2))
    self.assertEqual(
        [training.num_steps(7, 3), training.num_steps(7, 3, keep_last=True),
         training.num_steps(2, 3), training.num_steps(6, 3, keep_last=True)],
        [2, 3, 1, 2])

  @pytest.mark.slow
  def test_resumed_is_undisturbed(self):
    state = self._init(0)
    for _ in range(2):
      state, _ = self._epoch(state, share=0.25)
    key = np.asarray(jax.random.key_data(state.key))
    stored = jax.tree.map(np.asarray, state._replace(key=0))
    again = jax.tree.map(jnp.asarray, stored)._replace(
        key=jax.random.wrap_key_data(jnp.asarray(key)))
    state, parts = self._epoch(state)
    again, parts_again = self._epoch(again)
    jax.tree.map(np.testing.assert_array_equal,
                 (state._replace(key=0), parts),
                 (again._replace(key=0), parts_again))
    self.assertEqual(state.epoch, 3)

  @pytest.mark.slow
  def test_average(self):
    state, expected = self._init(0), 0
    for share in (0.25, 0.75):
      state, _ = self._epoch(state, share)
      expected += share * state.params["context"]
    np.testing.assert_allclose(
        state.average["context"], expected, rtol=1e-12)

  @pytest.mark.slow
  def test_seeds_together_equal_one_by_one(self):
    alone = [self._init(seed) for seed in range(3)]
    together = jax.jit(jax.vmap(
        lambda key: training.init(self.method, _SGD, self.base, key)))(
            jnp.stack([jax.random.key(seed) for seed in range(3)]))
    for _ in range(2):
      order = jax.vmap(lambda state: training.shuffle(state, 7, 3))(together)
      rows = jax.vmap(lambda state: self._rows(state, 2).rows)(together)
      together, parts = training.train_seeds(
          self.method, _SGD, together, self.base, self.data, order,
          training.Outliers(self.outliers, rows))
      alone, alone_parts = zip(*map(self._epoch, alone))
    for seed in range(3):
      np.testing.assert_allclose(
          together.params["context"][seed], alone[seed].params["context"],
          rtol=1e-10)
      np.testing.assert_allclose(
          parts["loss"][seed], alone_parts[seed]["loss"], rtol=1e-10)
    spread = np.ptp(together.params["context"], axis=0)
    self.assertGreater(spread.min(), 1e-8)

  @pytest.mark.slow
  def test_last_batch_is_a_step(self):
    state = self._init(0)
    kept, parts = self._epoch(state, keep_last=True)
    self.assertLen(parts["loss"], 3)
    order = training.shuffle(state, 7, 3, keep_last=True)
    rows = self._rows(state, 3)
    dropped, _ = training.train_epoch(
        self.method, _SGD, state, self.base, self.data,
        order._replace(last=order.last[:0]), rows._replace(rows=rows.rows[:2]),
        0.0)  # given, so that the program is that of the other epochs
    batch = self.oracle.batch(
        order.last, dor.take(self.outliers, rows.rows[2]))
    (loss, _), gradient = oracle_lib.step(
        self.method, dropped.params, self.base, batch)
    np.testing.assert_allclose(parts["loss"][2], loss, rtol=1e-10)
    updates, _ = _SGD.update(gradient, dropped.optimiser_state, dropped.params)
    np.testing.assert_allclose(
        kept.params["context"], (dropped.params["context"] +
                                 updates["context"]), rtol=1e-10)
    with self.assertRaisesRegex(ValueError, "for 3 steps, .* has 2"):
      training.train_epoch(
          self.method, _SGD, state, self.base, self.data,
          training.shuffle(state, 7, 3), rows)


if __name__ == "__main__":
  absltest.main()
