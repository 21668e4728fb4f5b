"""Flags of several sub-commands, and how help texts name flags."""

from absl import flags

OUTPUT = flags.DEFINE_string(
    "output", None, "folder to write to; runs/NAME-HASH if absent, with the "
    "name of the config and a hash of its fields")
OVERWRITE = flags.DEFINE_bool(
    "overwrite", False, "remove what the output folder holds first")


def flag_help(*names: str) -> list[str]:
  """Lines that name flags and say what they are for."""
  return [f"  --{name}\n      {flags.FLAGS[name].help}" for name in names]
