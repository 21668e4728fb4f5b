"""`jaxcal list`: the names that configs and flags take, a sentence each."""

from jaxcal import listing


def help_text() -> str:
  """What `jaxcal list --help` prints."""
  return "\n".join(
      ["Kinds, as in `jaxcal list methods`:", *listing.kinds()])


def main(*arguments: str) -> None:
  """Prints the names of a kind, or the kinds.

  Raises:
    ValueError: An unknown kind, several, or a flag.
  """
  given = [argument for argument in arguments if argument.startswith("-")]
  if given:
    raise ValueError(f"list takes no flags, got {' '.join(given)}")
  if not arguments:
    print(help_text())
    return
  kind, *more = arguments
  if kind not in listing.KINDS or more:
    raise ValueError(f"cannot list {' '.join(arguments)!r}; choose one of: "
                     f"{', '.join(listing.KINDS)}.")
  print("\n".join(listing.KINDS[kind]()))
