"""What something saved is of, compared with what is asked for."""

from collections.abc import Mapping
import json
from typing import Any

# What a value is called that one of the two lacks.
_NOTHING = "nothing"


def check(
    stored: Mapping[str, Any], asked: Mapping[str, Any], *, what: str,
    way_out: str,
) -> None:
  """Refuses what is of something else.

  Args:
    stored: Values by name, as JSON has them.
    asked: Values that they must equal, anything that JSON holds.
    what: Beginning of the message, what is refused.
    way_out: End of the message.

  Raises:
    ValueError: they differ; names every key with both values.
  """
  asked = json.loads(json.dumps(asked))
  differing = [
      f"{key}: stored {stored.get(key, _NOTHING)!r}, "
      f"asked {asked.get(key, _NOTHING)!r}"
      for key in sorted(set(stored) | set(asked))
      if (key in stored, stored.get(key)) != (key in asked, asked.get(key))]
  if differing:
    raise ValueError("\n  ".join([f"{what}:", *differing]) + f"\n{way_out}")
