"""Calibration errors, proper scores and their intervals, from arrays.

Arrays of numpy and jax, tensors of torch and lists serve alike. Annotations
name what they become.
"""
