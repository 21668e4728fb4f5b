"""Weights under which the papers on test-time prompt tuning report.

Their scripts have one for fine-grained sets, to which ImageNet belongs, and one
for the distribution shifts of ImageNet (A, V2, R, Sketch); none for a model.
"""

from collections.abc import Mapping

# By family of the image set, weights by the name of the method. C-TPT, O-TPT
# and A-TPT as in their released scripts (A-TPT's fine-grained one inverts the
# sign, which is `a_tpt_inverted`); SoC as in its README and, on shifts, as
# CoTS runs it.
WEIGHTS: Mapping[str, Mapping[str, float]] = {
    "fine_grained": {
        "c_tpt": 50.0, "c_tpt_two_step": 50.0, "o_tpt": 18.0,
        "o_tpt_published": 18.0, "a_tpt": 80.0, "a_tpt_inverted": 80.0,
        "soc": 30.0},
    "shift": {
        "c_tpt": 20.0, "c_tpt_two_step": 20.0, "o_tpt": 2.0,
        "o_tpt_published": 2.0, "a_tpt": 10.0, "soc": 14.0},
}
FAMILIES = tuple(WEIGHTS)
NUM_VIEWS = 64  # the clean one included, in all of them
