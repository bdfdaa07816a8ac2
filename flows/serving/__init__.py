"""A version handed out: over HTTP, or as files for whoever does not have otmf."""
