"""Values of flags and fields as nobody should give them."""

import contextlib
import math

from absl.testing import absltest
import hypothesis
from hypothesis import strategies as st
import pytest

from jaxcal import config as config_lib
from tests.cli import command
from tests.faults import fuzz

_FIELDS = [field.name for field in config_lib.fields(
    config_lib.ExperimentConfig()) if field.name not in (
        "config.methods", "config.model.name")]  # looked up on the hub
_TEXTS = (
    "", " ", "none", "None", "nan", "NaN", "inf", "-inf", "1e400", "-1", "0",
    "1", "0.5", "1.0", "1_000", "0x10", "\u0661", "9" * 20, "9" * 5000, "True",
    "maybe", "[1, 2]", "(1,)", "{}", "()", "1,2", ",", "a,,b", "'", '"', "\\",
    "..", "/", "/dev/null", "~", "~nobody/x", "a b", "{}", "a {} b {}", "{",
    "{x}", "%s", "$HOME", "\u732b", "\U0001f600", "\ud800", "\x1b[31m",
    "x" * 300, "x" * 5000, "-" * 9000 + "1", "(" * 300,
    "--help", "-", "=", "tpt", "highest", "fog")
_OBJECTS = (
    None, True, 0, 1, -1, 2**63, 10**400, 0.5, -0.0, math.nan, math.inf,
    -math.inf, "", "none", "x", b"x", (), ("x",), (1,), [], ["x"], [None], {},
    {"x": 1}, object, object(), 1j, range(2), "\ud800")
_OTHER = ("--output", "--overwrite", "--debugg", "--config", "--config.data",
          "--config.data.nmae", "--config.", "--config.methods", "--",
          "--noconfig.views.augmix", "--flagfile", "-x", "extra", "--share")


@st.composite
def _arguments(draw):
  """A few flags, most of them fields, with values of any kind."""
  names = draw(st.lists(st.sampled_from(_FIELDS), min_size=1, max_size=3))
  given = [f"--{name}={draw(_text())}" for name in names]
  if draw(st.integers(0, 4)) == 0:
    given.append(draw(st.sampled_from(_OTHER)) + draw(st.sampled_from(
        ("", "=", "=x", "=nowhere.py"))))
  return given


def _text():
  letters = st.characters(blacklist_characters="\0")
  return st.one_of(st.sampled_from(_TEXTS), st.text(letters, max_size=9))


class FlagsTest(fuzz.FaultCase):
  num_bytes = fuzz.COMPILING_BYTES

  @hypothesis.given(_arguments())
  @pytest.mark.slow
  def test_command_line(self, arguments):
    """Nothing of a run comes about: there are no images."""
    fuzz.COUNTS["command lines, inputs"] += 1
    with fuzz.bounded(self.num_bytes), contextlib.chdir(self.root):
      # Twice, as the flag before it may take one for its value.
      status, _, error = command.here(
          "evaluate", *arguments, *2 * ("--config.data.name=./nowhere",),
          folder=self.root)
    self.assertEqual(status, 0 if "--help" in arguments else 2, error)
    if status:
      fuzz.COUNTS["command lines, refused"] += 1
      self.assertRegex(error, r"(?m)^jaxcal: \S")
      self.assertNotIn("Traceback", error)
    self.assertEmpty(list(self.root.iterdir()))

  @hypothesis.given(st.lists(st.tuples(
      st.sampled_from([*_FIELDS, "config.methods"]),
      st.one_of(st.sampled_from(_OBJECTS), st.text(), st.floats(),
                st.integers())),
                             min_size=1, max_size=3))
  def test_values_in_a_config_file(self, values):
    config = config_lib.ExperimentConfig()
    for name, value in values:
      *sections, field = name.removeprefix("config.").split(".")
      place = config
      for section in sections:
        place = getattr(place, section)
      setattr(place, field, value)
    self.read("values in a config file",
              lambda: config_lib.check(config) or True,
              *(name.removeprefix("config.") for name, _ in values),
              *(name.rpartition(".")[2] for name, _ in values))


if __name__ == "__main__":
  absltest.main()
