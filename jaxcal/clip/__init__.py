"""Checkpoints become functions from arrays to features."""
