"""The folders of a line, processes, error sentences, reading of foreign files."""
