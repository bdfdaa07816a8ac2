"""Whether a line is what its records say."""
