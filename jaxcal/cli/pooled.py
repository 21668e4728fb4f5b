"""Image sets before the projections, with a bar, from a config."""

import pathlib

from jaxcal.cli import experiment
from jaxcal.clip import checkpoint
from jaxcal.data import image_set as image_sets
from jaxcal.features import pooled
from jaxcal.typing import Pooled

# A clean view is one where an evaluated image is 64 of them.
IMAGES_PER_IMAGE = 8

write = pooled.write
gather = pooled.gather


def pooled_images(
    config,
    model: checkpoint.Model,
    images: image_sets.ImageSet,
    folder: pathlib.Path | None = None,
) -> Pooled:
  """`pooled.from_images` with a bar; config is that of the experiment."""
  with experiment.progress(images.name, len(images.ids)) as bar:
    return pooled.from_images(
        model, images, folder,
        batch_size=config.batch_size * IMAGES_PER_IMAGE,
        num_threads=config.num_threads,
        progress=lambda done, _: bar.update(done - bar.n))
