"""`jaxcal posterior import`: released Kronecker factors become a posterior."""

import functools
import math
import os

from absl import flags

from jaxcal import config as config_lib
from jaxcal import config_inputs
from jaxcal.cli import experiment
from jaxcal.cli import output_files
from jaxcal.cli import shared_flags
from jaxcal.posterior import files
from jaxcal.posterior import fit
from jaxcal.posterior import released
from jaxcal.report import posterior as report

EXAMPLE = (
    "jaxcal posterior import hessians/hessian_CLIP-ViT-B-32-laion2B-s34B-b79K "
    "--config=bayesvlm --config.posterior.folder=runs/laion "
    "--config.model.name=laion/CLIP-ViT-B-32-laion2B-s34B-b79K")
_ABOUT = """\
FOLDER holds A_img_analytic.pt, B_img_analytic.pt, A_txt_analytic.pt,
B_txt_analytic.pt and prior_precision_analytic.json. No pickled code is run.
Fills --config.posterior.folder."""

_WEIGHT_NORM2 = flags.DEFINE_list(
    "weight_norm2", None, "IMAGE,TEXT: sums of squares of the projections' "
    "weights, instead of reading --config.model for them")

FLAGS = ("weight_norm2", "config", "overwrite", "compilation_cache", "debug")
FIELDS = config_lib.field_names(
    "model", "posterior.folder", "posterior.pseudo_count")
help_text = functools.partial(
    experiment.help_text, _ABOUT, EXAMPLE, FLAGS, FIELDS)


def main(source: str) -> None:
  """Imports the factors that lie in a folder."""
  config = experiment.checked_config()
  folder = experiment.posterior_to_fill(config.posterior)
  if files.has_factors(folder) and not shared_flags.OVERWRITE.value:
    raise ValueError(f"{folder} holds a posterior already; give another "
                     "--config.posterior.folder, or --overwrite to remove it")
  source = os.path.expanduser(source)
  found = released.read_folder(source)
  norms = _norms()
  model = config_inputs.load_model(config.model) if norms is None else None
  fitted = fit.of_released(
      found, source, model=model, weight_norm2=norms,
      pseudo_count=config.posterior.pseudo_count or files.PSEUDO_COUNT)
  output_files.take(folder, fit.clear)
  files.write(folder, *fitted)
  print(report.write_fit(folder, *fitted), end="\n\n")
  print(report.write_priors(folder, found, *fitted))


def _norms() -> dict[str, float] | None:
  if _WEIGHT_NORM2.value is None:
    return None
  try:
    image, text = map(float, _WEIGHT_NORM2.value)
    if not 0 <= image < math.inf or not 0 <= text < math.inf:
      raise ValueError("out of range")
  except ValueError as error:
    raise ValueError("--weight_norm2 is "
                     f"{','.join(_WEIGHT_NORM2.value)}, expected two numbers "
                     "of at least 0, IMAGE,TEXT") from error
  return {"image": image, "text": text}
