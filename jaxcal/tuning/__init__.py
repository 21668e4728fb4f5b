"""Few-shot tuning: methods as pure functions, and one loop that trains them."""
