"""Flows and the `otmf` command: they order and observe. Stages run only as processes that DVC starts."""
