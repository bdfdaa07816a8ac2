"""A line of models on disk: git, clones of it, landing a change, remotes."""
