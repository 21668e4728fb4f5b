"""Laplace posteriors over the last projections of CLIP-style models."""
