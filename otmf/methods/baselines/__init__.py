"""Published merge methods beside OTMF, one file a paper."""
