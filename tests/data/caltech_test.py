"""The readers and the few-shot protocol on a stand-in for Caltech-101."""

from absl.testing import absltest

from jaxcal.data import check
from tests.data import caltech_cases
from tests.data import caltech_stand_in


class _StandIn:

  halves = {"base": 1219, "new": 1246}

  @property
  def folder(self):
    return caltech_stand_in.folder()


class SplitsTest(_StandIn, caltech_cases.Splits):
  pass


class FewShotTest(_StandIn, caltech_cases.FewShot):
  pass


class CheckTest(_StandIn, caltech_cases.CaltechCase):

  def test_clean(self):
    self.clean_report(check.Look(headers_only=True))


if __name__ == "__main__":
  absltest.main()
