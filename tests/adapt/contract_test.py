"""Methods that break the contract are refused in words, and before the work."""

import dataclasses

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
from jax.tree_util import Partial
import numpy as np

from jaxcal import pytrees
from jaxcal.adapt import base
from jaxcal.adapt import cache
from jaxcal.adapt import contract
from jaxcal.adapt import methods
from tests.adapt import small_tower

_K, _V = 3, 21
_TASK = base.Task(np.eye(_K, dtype=np.float32), jnp.float32(2.0))
_VIEWS = np.eye(_K, dtype=np.float32)


@pytrees.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Own:
  """Whatever `step` makes of the logits of the clean view."""

  step: object = dataclasses.field(metadata={"static": True})
  start: object = ()

  def method(self):
    start = jax.tree.map(jnp.asarray, self.start)
    return base.TestTimeMethod(
        Partial(lambda start, task: start, start),
        Partial(lambda task, state, views: self.step(
            state, base.logits(task, views[0]))))


@dataclasses.dataclass(frozen=True)
class _Unregistered:
  weight: float = 1.0

  def method(self):
    return base.episodic(lambda own, task, views: None, self)


@pytrees.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Mode:
  mode: str = "mean"

  def method(self):
    return base.episodic(lambda own, task, views: None, self)


class _Lambdas:

  def method(self):
    return base.TestTimeMethod(lambda task: (), lambda *_: None)


class _Fails:

  def method(self):
    return {}["own"]


class _Step:

  def method(self):
    return Partial(lambda task, views: None)


def _plain(state, logits, **changes):
  return state, base.from_logits(logits)._replace(**changes)


def _info(value, name="own"):
  return lambda state, logits: _plain(state, logits, info={name: value(logits)})


class CheckTest(parameterized.TestCase):

  @parameterized.parameters(*methods.METHODS)
  def test_those_of_the_table_keep_to_it(self, name):
    task = _TASK._replace(
        encode=Partial(lambda context: context / jnp.linalg.norm(
            context, axis=-1, keepdims=True)),
        context=jnp.eye(_K) + 0.1, image_blocks=small_tower.blocks(_K))
    method = methods.method(name)
    views = jax.eval_shape(
        lambda: small_tower.seen(method, jnp.zeros((_V, _K))))
    output = contract.check(method, task, views)
    self.assertEqual(output.log_probs.shape, (_K,))

  @parameterized.parameters(
      (cache.Tda, "the class Tda itself"), ("tda", "an instance of str"),
      (cache.Tda().method(), "an instance of TestTimeMethod"),
      (_Step(), "jaxcal.episodic or .* an instance of Partial"))
  def test_no_method_at_all(self, method, message):
    with self.assertRaisesRegex(TypeError, message):
      contract.check(method, _TASK, _VIEWS)

  @parameterized.parameters(
      (_Unregistered(), "one is an instance of _Unregistered. Register a"),
      (_Mode(), "one is an instance of str. .*mark what is no number as stat"),
      (_Lambdas(), "one is an instance of function. .*jax.tree_util.Partial"))
  def test_no_pytree(self, method, message):
    with self.assertRaisesRegex(ValueError, message):
      contract.check(method, _TASK, _VIEWS)

  def test_errors_of_one_s_own_are_told_by_their_place(self):
    with self.assertRaisesRegex(
        ValueError, "method.. fails: KeyError: 'own' .*contract_test.py, line"):
      contract.check(_Fails(), _TASK, _VIEWS)

  @parameterized.named_parameters(
      ("output_alone", lambda s, x: base.from_logits(x),
       "must return a pair, .* got an instance of Output"),
      ("array", lambda s, x: (s, x), r"a jaxcal.Output .* got float32\[3\]"),
      ("none", lambda s, x: (s, None), "a jaxcal.Output .* got None"),
      ("another_class", lambda s, x: _plain(s, jnp.append(x, 0.)),
       r"scores must have shape \(3,\) .* got float32\[4\]"),
      ("a_row_each", lambda s, x: _plain(s, x[None]), r"float32\[1, 3\]"),
      ("complex", lambda s, x: _plain(s, x, scores=x + 1j), "got complex64"),
      ("whole_log_probs", lambda s, x: _plain(s, x, log_probs=jnp.arange(3)),
       r"log_probs must have shape \(3,\) and type floating, got int32"),
      ("info_of_classes", _info(lambda x: x), r"info 'own' must .*\(\)"),
      ("info_none", _info(lambda x: None), "info 'own' .* got None"),
      ("info_text", _info(lambda x: "high"), "step cannot be traced: TypeErr"),
      ("info_slash", _info(lambda x: x[0], "a/b"), "names without a slash"),
      ("info_list", lambda s, x: _plain(s, x, info=[x[0]]), "a mapping from"),
      ("branch", lambda s, x: _plain(s, x if x[0] > 0 else -x),
       "step cannot be traced: TracerBool.*contract_test.py, line"),
      ("key", lambda s, x: {}["own"],
       "step cannot be traced: KeyError: 'own' .*contract_test.py, line"))
  def test_no_output(self, step, message):
    with self.assertRaisesRegex(ValueError, "(?s)" + message):
      contract.check(_Own(step), _TASK, _VIEWS)

  @parameterized.parameters(
      (0, lambda state: state + 0.5, r"it is int32\[\] and becomes float32"),
      ({"n": np.zeros(3)}, lambda state: {"n": state["n"][:2]},
       r"\['n'\] is float32\[3\] and becomes float32\[2\]"),
      ((), lambda state: state + (1,), "of the structure that init gives"))
  def test_another_state(self, start, following, message):
    own = _Own(lambda state, x: _plain(following(state), x), start)
    with self.assertRaisesRegex(ValueError, message):
      contract.check(own, _TASK, _VIEWS)

  def test_what_is_no_mistake(self):
    for step in (
        lambda s, x: _plain(s, x, scores=jnp.arange(3)),
        lambda s, x: _plain(s, x.astype(jnp.bfloat16)),
        _info(jnp.argmax), _info(lambda x: x[0] > 0), _info(lambda x: 1.5)):
      contract.check(_Own(step), _TASK, _VIEWS)
    for start in (0, 0.0, jax.random.key(0), {"a": [np.zeros(2)]}):
      contract.check(_Own(_plain, start), _TASK, _VIEWS)


class CheckValuesTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    logits = 5 * np.random.default_rng(0).normal(size=(4, _K))
    self.log_probs = np.log(np.exp(logits) / np.exp(logits).sum(-1)[:, None])
    self.logits = logits

  def _check(self, scores, log_probs):
    contract.check_values(base.Output(scores, log_probs), "abcd")

  def test_distributions(self):
    for scores in (self.logits, self.log_probs, np.exp(self.logits)):
      for dtype in (np.float64, np.float32, np.float16, jnp.bfloat16):
        self._check(scores, self.log_probs.astype(dtype))
    self._check(np.array([[2, 2, 0]]), np.log([[.5 - 1e-7, .5, 1e-7]]))

  def test_logits_alone(self):
    self._check(self.logits, None)
    self.logits[3, 0] = np.inf
    with self.assertRaisesRegex(ValueError, "not finite for 1 of 4 .* 'd'"):
      self._check(self.logits, None)

  @parameterized.parameters(np.nan, -np.inf)
  def test_not_finite(self, value):
    for broken in ("scores", "log_probs"):
      given = {"scores": self.logits.copy(), "log_probs": self.log_probs.copy()}
      given[broken][2, 1] = value
      with self.assertRaisesRegex(
          ValueError, "not finite for 1 of 4 images, the first one 'c'"):
        self._check(**given)

  def test_no_distribution(self):
    for wrong in (self.logits, np.exp(self.log_probs)):
      with self.assertRaisesRegex(
          ValueError, "sum to one for 4 of 4 images, .* jaxcal.from_logits"):
        self._check(self.logits, wrong)

  def test_another_prediction(self):
    self.logits[1] = -self.logits[1]
    with self.assertRaisesRegex(
        ValueError, "another class than the scores for 1 of 4 .* 'b'"):
      self._check(self.logits, self.log_probs)


if __name__ == "__main__":
  absltest.main()
