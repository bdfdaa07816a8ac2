"""Which version serves, and what is recorded of each: ledger, keys, registry."""
