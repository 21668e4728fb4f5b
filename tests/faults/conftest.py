"""How many inputs are drawn, and what became of them."""

import hypothesis

from tests.faults import fuzz

_FEW = 40  # of each property


def pytest_addoption(parser):
  parser.addoption(
      "--fuzz-examples", type=int, default=None,
      help=f"inputs of each property, drawn anew each time; {_FEW}, always the "
      "same, if absent")


def pytest_configure(config):
  wanted = config.getoption("fuzz_examples", None)
  hypothesis.settings.register_profile(
      "faults", max_examples=wanted or _FEW, derandomize=wanted is None,
      database=None, deadline=None,  # see `fuzz.bounded`
      suppress_health_check=list(hypothesis.HealthCheck))
  hypothesis.settings.load_profile("faults")
  # That what it prints of a failure is long.
  config.addinivalue_line(
      "filterwarnings", "ignore::hypothesis.errors.HypothesisWarning")


def pytest_terminal_summary(terminalreporter, config):
  if config.getoption("fuzz_examples", None) is not None:
    for name, count in sorted(fuzz.COUNTS.items()):
      terminalreporter.write_line(f"{name}: {count}")
