"""What there is, without the command; see also `cli/main_test`."""

from absl.testing import absltest

from jaxcal import listing
from jaxcal.adapt import methods
from jaxcal.recalibration import calibrators


class ListingTest(absltest.TestCase):

  def test_lines_begin_with_the_names(self):
    names = lambda lines: {line.split()[0] for line in lines if line[:1] == " "}
    self.assertEqual(names(listing.kinds()), set(listing.KINDS))
    self.assertContainsSubset(methods.METHODS, names(listing.methods()))
    self.assertEqual(names(listing.recalibrators()),
                     set(calibrators.RECALIBRATORS))


if __name__ == "__main__":
  absltest.main()
