"""Test-time prompt tuning: a context for every image."""
