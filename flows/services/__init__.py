"""The servers beside a line: Prefect, MLflow, and the agents that work for it."""
