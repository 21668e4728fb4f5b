"""Where the weights of the small CLIP lie that ships with the package."""

import pathlib


def folder() -> pathlib.Path:
  """The Hugging Face folder to hand to `checkpoint.load`.

  Raises:
    FileNotFoundError: The package was installed without its data files.
  """
  path = pathlib.Path(__file__).parent / "weights"
  if not (path / "model.safetensors").exists():
    raise FileNotFoundError(
        f"no model.safetensors in {path}; `pip install .` from a full checkout "
        "brings it, `python -m jaxcal.testbed.train` makes it anew")
  return path
