"""Tasks that arrive without a person: the inbox, the flow that takes them, deployments and schedules."""
