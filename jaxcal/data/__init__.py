"""Files become fixed-shape batches of views."""
