"""The `otmf` command: what is typed, what is printed."""
