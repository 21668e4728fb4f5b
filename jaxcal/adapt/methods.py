"""The methods by name, for those who choose by name."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from jaxcal import spelling
from jaxcal.adapt import base
from jaxcal.adapt import cache
from jaxcal.adapt import classifier
from jaxcal.adapt import graph
from jaxcal.adapt import low_rank
from jaxcal.adapt import memory
from jaxcal.adapt import modes
from jaxcal.adapt import prototypes
from jaxcal.adapt import shifts
from jaxcal.adapt import votes
from jaxcal.adapt.prompt import dynamic
from jaxcal.adapt.prompt import methods as prompt
from jaxcal.adapt.prompt import reliability
from jaxcal.adapt.prompt import rewards

METHODS: Mapping[str, type[base.Numbers]] = {
    "zero_shot": prompt.ZeroShot,
    "tpt": prompt.Tpt,
    "c_tpt": prompt.CTpt,
    "c_tpt_two_step": prompt.CTptTwoStep,
    "o_tpt": prompt.OTpt,
    "o_tpt_published": prompt.OTptPublished,
    "a_tpt": prompt.ATpt,
    "a_tpt_inverted": prompt.ATptInverted,
    "soc": prompt.Soc,
    "soc_quantile": prompt.SocQuantile,
    "r_tpt": reliability.RTpt,
    "rlcf": rewards.Rlcf,
    "mta": modes.Mta,
    "zero": votes.Zero,
    "tps": shifts.Tps,
    "tda": cache.Tda,
    "boostadapter": cache.BoostAdapter,
    "dmn": memory.Dmn,
    "dmn_weak": memory.DmnWeak,
    "dpe": prototypes.Dpe,
    "onzeta": classifier.OnZeta,
    "ecalp": graph.Ecalp,
    "dynaprompt": dynamic.DynaPrompt,
    "ttl": low_rank.Ttl,
}

# Those that tune a prompt by the entropy and a regulariser together.
REGULARISED = ("c_tpt", "o_tpt", "o_tpt_published", "a_tpt", "soc",
               "soc_quantile")


def method(name: str, **numbers: Any) -> base.Numbers:
  """The method called `name`, with numbers other than its defaults.

  Raises:
    ValueError: An unknown name, or a number that the method does not have;
      both errors list the choices.
  """
  known = numbers_of(name)
  unknown = sorted(set(numbers) - set(known))
  if unknown:
    raise ValueError(
        f"method {name!r} has no {', '.join(map(repr, unknown))}; it has: "
        f"{', '.join(known) or 'no numbers'}.")
  return METHODS[name](**numbers)


def numbers_of(name: str) -> dict[str, Any]:
  """The numbers of the method called `name`, with their defaults.

  Raises:
    ValueError: An unknown name; lists the choices.
  """
  if name not in METHODS:
    raise ValueError(f"unknown method {name!r}; "
                     f"{spelling.choices(name, sorted(METHODS))}")
  return {field.name: field.default
          for field in dataclasses.fields(
              METHODS[name])}  # type: ignore[arg-type]
