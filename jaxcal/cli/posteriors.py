"""The posterior that a config names."""

from jaxcal.clip import checkpoint
from jaxcal.posterior import head

Chosen = head.Chosen


def load(config, model: checkpoint.Model) -> Chosen | None:
  """The posterior of config.posterior; None where there is no folder.

  Raises:
    FileNotFoundError: Nothing lies there.
    ValueError: It is damaged, or of another model.
  """
  if config.folder is None:
    return None
  return head.load(config.folder, model, pseudo_count=config.pseudo_count)
