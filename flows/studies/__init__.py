"""What the command shows or compares: status, report, comparisons, demo."""
