"""Predictions become tables, figures and pages."""
