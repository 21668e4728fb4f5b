"""`jaxcal posterior import`: released Kronecker factors become a posterior."""

import pathlib

from absl import flags

from jaxcal.cli import experiment
from jaxcal.cli import posterior_fit
from jaxcal.cli import posterior_folder
from jaxcal.cli import posteriors
from jaxcal.cli import shared_flags
from jaxcal.posterior import files
from jaxcal.posterior import marginal
from jaxcal.posterior import released
from jaxcal.report import tables
from jaxcal.storage import atomic

EXAMPLE = (
    "jaxcal posterior import hessians/hessian_CLIP-ViT-B-32-laion2B-s34B-b79K "
    "--config=bayesvlm --config.posterior.folder=runs/laion "
    "--config.model.name=laion/CLIP-ViT-B-32-laion2B-s34B-b79K")

_WEIGHT_NORM2 = flags.DEFINE_list(
    "weight_norm2", None, "IMAGE,TEXT: sums of squares of the projections' "
    "weights, instead of reading config.model for them")


def help_text() -> str:
  """What `jaxcal posterior import --help` prints."""
  return "\n".join([
      "FOLDER holds A_img_analytic.pt, B_img_analytic.pt, A_txt_analytic.pt, "
      "B_txt_analytic.pt", "and prior_precision_analytic.json. No pickled "
      "code is run. Fills config.posterior.folder.", "",
      "Example:", f"  {EXAMPLE}", "",
      "Flags:", *shared_flags.flag_help(
          "weight_norm2", "config", "overwrite", "compilation_cache", "debug"),
      "", "Fields of the config, with their defaults:",
      *experiment.field_help()])


def main(source: str) -> None:
  """Imports the factors that lie in a folder."""
  config = experiment.checked_config()
  experiment.refuse_processes()
  folder = posterior_folder.folder_of(config)
  if (folder / "manifest.json").exists() and not shared_flags.OVERWRITE.value:
    raise ValueError(f"{folder} holds a posterior already; give another "
                     "--config.posterior.folder, or --overwrite to remove it")
  found = released.read_folder(source)
  model = None
  norms = _norms()
  if norms is None:
    model = experiment.load_model(config.model)
    maps = posteriors.projections(model)
    norms = {side: posteriors.weight_norm2(one) for side, one in maps.items()}
  fitted = files.fitted(dict(zip(files.SIDES, (found.image, found.text))), {
      "model": config.model.name if model else None,
      "model_fingerprint": model.fingerprint if model else None,
      "weight_norm2": norms,
      "released": {"folder": pathlib.Path(source).name,
                   "prior": found.prior,
                   "asymmetry": found.asymmetry}})
  count = config.posterior.pseudo_count or posterior_fit.DEFAULT_PSEUDO_COUNT
  evidence = files.maximise_evidence(fitted, count)
  if model is not None:
    posteriors.check(files.posterior(fitted, evidence),
                     {"model_fingerprint": model.fingerprint}, model, source)
  posterior_folder.take(folder)
  files.write(folder, fitted, evidence)
  posterior_folder.report(folder, fitted, evidence)
  text = tables.markdown(
      [_row(side, fitted, found.prior, evidence) for side in files.SIDES],
      tables.PRIORS)
  atomic.write_whole(folder / "priors.md", f"{text}\n".encode())
  print(f"\n{text}")


def _norms():
  if _WEIGHT_NORM2.value is None:
    return None
  try:
    image, text = map(float, _WEIGHT_NORM2.value)
  except ValueError as error:
    raise ValueError("--weight_norm2 is "
                     f"{','.join(_WEIGHT_NORM2.value)}, expected two numbers, "
                     "IMAGE,TEXT") from error
  return {"image": image, "text": text}


def _row(side, fitted, prior, evidence):
  """Where the released prior precision comes from, and where it goes."""
  short = {"image": "img", "text": "txt"}[side]
  old, count = prior[f"lambda_{short}"], prior[f"n_{short}"]
  refit = lambda form, count: marginal.fit_prior_precision(
      *fitted.spectra[side], pseudo_count=count, form=form,
      weight_norm2=fitted.manifest["weight_norm2"][side])
  return {"side": side, "released": old, "released_count": count,
          "superseded": refit("superseded", count),
          "corrected": refit("corrected", count),
          "chosen": evidence.prior_precision[side],
          "pseudo_count": evidence.pseudo_count}
