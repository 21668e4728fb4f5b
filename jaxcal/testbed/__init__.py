"""A small CLIP and its image sets, shipped with the package."""
