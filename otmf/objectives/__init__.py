"""What a merged model's features are matched by: optimal transport and its alternatives."""
