"""Recalibration: fitted to logits and labels after training, then applied."""
