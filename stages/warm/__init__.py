"""A warm interpreter that forks itself for DVC and for stages."""
