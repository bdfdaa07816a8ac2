"""The servers beside a line (Prefect, MLflow), agents that work for it, and what killed runs leave."""
