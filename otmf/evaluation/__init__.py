"""Accuracy over tasks and steps, the gate, and protocols of comparison."""
