"""The jaxcal command: the only room that knows flags."""
