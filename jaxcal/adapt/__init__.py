"""Test-time prompt tuning of one unlabelled image."""
