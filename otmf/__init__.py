"""Continual model merging by optimal transport: the library. It computes; it knows no DVC, Prefect or MLflow."""

__version__ = "0.1.0"
