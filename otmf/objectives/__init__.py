"""What features are matched by: optimal transport (the Sinkhorn loop) and its alternatives."""
