"""`otmf serve`: predictions over HTTP."""
