"""Continual merging: one step of a stream, and what it leaves for the next."""

from otmf.continual.step import Encoder, Step, advance

__all__ = ["Encoder", "Step", "advance"]
