"""A line's folders, processes, errors, and the borders to parsers."""
