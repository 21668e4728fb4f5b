"""One measurement per claim about speed or memory; see `timing`."""
