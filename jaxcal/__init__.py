"""Calibration of CLIP-style vision-language models in JAX.

The rooms, in the order in which data passes through them:

  clip      a checkpoint becomes functions from arrays to features
  data      files become batches of views
  losses    entropies and regularisers, pure functions of arrays
  adapt     test-time prompt tuning of one image, vmapped over a batch
  metrics   calibration errors, scores and their intervals
  report    tables, figures and pages
  testbed   a small CLIP and its image sets, shipped with the package
  cli       the `jaxcal` command
"""

__version__ = "0.1.0"
