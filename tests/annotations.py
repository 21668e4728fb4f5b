"""Annotations of jaxcal are checked by every call that a test makes.

Shapes and dtypes of arrays are, too. JAXTYPING_DISABLE=1 turns it off.
"""

import unittest

import beartype
import jaxtyping

# An int may stand for a float, as for static checkers.
_checked = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))


def check(function):
  """A function that refuses what its annotations forbid.

  Not so the constructors of dataclasses: JAX makes pytrees anew of whatever
  leaves it works with, such as batches of them, axes or nothing at all.
  """
  return function if function.__name__ == "__init__" else _checked(function)


class _Refusal(unittest.case._AssertRaisesContext):
  """What a test hands in to be refused reaches the function that refuses it.

  Annotations forbid most of it, too, but users run without these checks.
  """

  def __enter__(self):
    self._disabled = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    return super().__enter__()

  def __exit__(self, *error):
    jaxtyping.config.update("jaxtyping_disable", self._disabled)
    return super().__exit__(*error)


def install() -> None:
  """Checks all of jaxcal that is imported from now on."""
  jaxtyping.install_import_hook("jaxcal", f"{__name__}.{check.__name__}")
  unittest.case._AssertRaisesContext = _Refusal
