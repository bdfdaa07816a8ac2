"""Timings and memory of real sizes, as ratios within one run. Each prints a Markdown table; none is a timed test."""
