"""What the image tower saw, kept on disk for every method and sweep."""
