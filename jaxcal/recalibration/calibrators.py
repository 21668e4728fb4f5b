"""The calibrators by the names that commands and files give them."""

from collections.abc import Callable

from jaxcal import spelling
from jaxcal.recalibration import base
from jaxcal.recalibration import binned
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

  Raises:
    ValueError: An unknown name; lists the choices.
  """
  if name not in RECALIBRATORS:
    raise ValueError(f"unknown recalibrator {name!r}; "
                     f"{spelling.choices(name, RECALIBRATORS)}")
  return RECALIBRATORS[name]()
