"""Comparisons of merge methods on the experts of a line."""
