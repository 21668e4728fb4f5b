"""The calibrators by the names that commands and files give them."""

from collections.abc import Callable

from jaxcal import spelling
from jaxcal.recalibration import base
from jaxcal.recalibration import binned
from jaxcal.recalibration import chain
from jaxcal.recalibration import cots
from jaxcal.recalibration import dac
from jaxcal.recalibration import isotonic
from jaxcal.recalibration import matrix
from jaxcal.recalibration import procal
from jaxcal.recalibration import sals
from jaxcal.recalibration import temperature
from jaxcal.recalibration import top_label
from jaxcal.recalibration import vector

RECALIBRATORS: dict[str, Callable[[], base.Calibrator]] = {
    "temperature": temperature.Temperature,
    "vector": vector.Vector,
    "matrix": matrix.Matrix,
    "dirichlet": matrix.Dirichlet,
    "histogram_per_class": binned.HistogramPerClass,
    "isotonic_per_class": isotonic.IsotonicPerClass,
    "multi_isotonic": isotonic.MultiIsotonic,
    "top_label_histogram": top_label.TopLabelHistogram,
    "top_label_per_class": top_label.TopLabelPerClass,
    "top_label_isotonic": top_label.TopLabelIsotonic,
    "procal_density_ratio": procal.ProcalDensityRatio,
    "procal_bin_mean_shift": procal.ProcalBinMeanShift,
    "procal_isotonic": procal.ProcalIsotonic,
    "dac": dac.Dac,
    "sals": sals.Sals,
    "cots": cots.Cots,
    "e_cots": cots.ECots,
}


def calibrator(name: str) -> base.Calibrator:
  """The calibrator called `name`, with its own constants.

  Args:
    name: Name of `RECALIBRATORS`, or several with commas between them, which
      become a `chain.Chain` in that order.

  Raises:
    ValueError: An unknown name; lists the choices.
  """
  names = name.split(",")
  for one in names:
    if one not in RECALIBRATORS:
      raise ValueError(f"unknown recalibrator {one!r}; "
                       f"{spelling.choices(one, RECALIBRATORS)}")
  found = tuple(RECALIBRATORS[one]() for one in names)
  return found[0] if len(found) == 1 else chain.Chain(found)
