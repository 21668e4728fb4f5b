"""Measures as papers and their released programs compute them.

One name stands for several measures, and one measure has several names; only
numbers of one row of this table may be compared.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxcal.metrics import calibration
from jaxcal.metrics import proximity
from jaxcal.metrics import scoring
from jaxcal.metrics import selective
from jaxcal.typing import Array
from jaxcal.typing import Float


class Preset(NamedTuple):
  """A measure under the name by which it was published.

  Attributes:
    function: Function of this package.
    options: Options of it: bins, edges, norm.
    source: Repository and commit, or paper, that it was read in.
    note: Remark on what differs there, or what the name hides; perhaps empty.
  """

  function: Callable[..., Float[Array, "..."]]
  options: Mapping[str, Any]
  source: str
  note: str = ""

  def __call__(self, *arrays: Any) -> Float[Array, "..."]:
    """The measure of the arrays that its function takes, a fraction."""
    return self.function(*arrays, **self.options)


def _preset(function, source, note="", /, **options):
  return Preset(function, options, source, note)


_ECE = calibration.expected_calibration_error
_RIGHT = {"num_bins": 20, "edges": "right", "norm": "l1"}
_TPT = ("hee-suk-yoon/C-TPT @085e6c2, ashshaksharifdeen/O-TPT @a09933f, "
        "MB-Shihab-Aaqil-Ahamed/A-TPT @d76ecf6")
_FPP = "YonseiML/fpp @bb9917f"
_DAC = "ml-stat-Sustech/CLIP_Calibration @5b68fb1"
_CLIPCALIB = "Bala93/CLIPCalib"
_BAYESVLM = "AaltoML/BayesVLM @855be8b, torchmetrics"

# By paper, and by the name of the measure there.
PRESETS: Mapping[str, Mapping[str, Preset]] = {
    "C-TPT, O-TPT, A-TPT": {
        "ECE": _preset(_ECE, _TPT, "confidences of half precision", **_RIGHT)},
    "FPP": {
        "ECE": _preset(_ECE, _FPP, **_RIGHT),
        "MCE": _preset(calibration.maximum_calibration_error, _FPP,
                       num_bins=20, edges="right"),
        "SCE": _preset(calibration.classwise_calibration_error, _FPP,
                       "a probability of 0 is in no bin", **_RIGHT),
        "AECE": _preset(calibration.adaptive_calibration_error, _FPP,
                        "zero where all confidences are equal",
                        num_bins=20, rule="nearest_rank"),
        "AURC": _preset(selective.risk_coverage_area, _FPP,
                        "not in percent; ties in the order of a sort"),
    },
    "DAC, DOR, TCPT": {
        "ECE": _preset(_ECE, _DAC, "a confidence of 1 is weighed but left out "
                       "of the means", num_bins=10, edges="left", norm="l1"),
        "MCE": _preset(calibration.max_bin_contribution, _DAC,
                       "the largest term of the ECE, not the largest gap",
                       num_bins=10, edges="left"),
        "ACE": _preset(calibration.adaptive_calibration_error, _DAC,
                       "not class-wise; 'linear' quantiles of scikit-learn "
                       "before 1.9", num_bins=10, rule="quantile"),
        "PIECE": _preset(proximity.proximity_calibration_error, _DAC,
                         "proximity to 5 base validation images",
                         num_bins=10, num_groups=10, edges="left"),
    },
    "CLIPCalib": {
        "ECE": _preset(_ECE, _CLIPCALIB, "10 bins in its summary table",
                       num_bins=15, edges="right", norm="l1"),
        "adaptive ECE": _preset(
            calibration.adaptive_calibration_error, _CLIPCALIB,
            "the smallest confidence is in no bin",
            num_bins=15, rule="interpolated"),
        "class-wise ECE": _preset(
            calibration.classwise_calibration_error, _CLIPCALIB,
            num_bins=15, edges="right", norm="l1"),
    },
    "BayesVLM": {
        "ECE": _preset(_ECE, _BAYESVLM, "a confidence of 1 has a bin of its "
                       "own; 15 bins in active learning",
                       num_bins=20, edges="left", norm="l1"),
        "NLPD": _preset(scoring.negative_log_likelihood, _BAYESVLM,
                        "one value per example, at most 15.942",
                        clamp=2.0 ** -23),
    },
    "Guo et al. 2017": {
        "ECE": _preset(_ECE, "On Calibration of Modern Neural Networks",
                       num_bins=15, edges="right", norm="l1")},
}
