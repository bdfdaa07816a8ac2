"""`otmf bench`: many merges of the same experts, planned, run side by side, tabulated."""
