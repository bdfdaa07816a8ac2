"""Where a model comes from: ledger, keys, digests."""
