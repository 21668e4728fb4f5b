"""Entropies and regularisers: pure functions of arrays, one example at a time."""
