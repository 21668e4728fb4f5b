"""Entropies and regularisers: pure functions of one example's arrays."""
