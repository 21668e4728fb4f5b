"""Calibration errors, proper scores and their intervals, from arrays."""
