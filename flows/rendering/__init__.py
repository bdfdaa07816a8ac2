"""Templates and figures of pages."""
