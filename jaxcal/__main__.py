"""`python -m jaxcal` is the `jaxcal` command."""

from jaxcal.cli import main

if __name__ == "__main__":
  main.enter()
