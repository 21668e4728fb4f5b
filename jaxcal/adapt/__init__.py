"""Test-time adaptation: what is done with unlabelled test images."""
