"""DVC as a line uses it: its commands, its lock file, its cache."""
