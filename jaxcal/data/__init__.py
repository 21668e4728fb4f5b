"""Files become labelled uint8 views on the host."""
