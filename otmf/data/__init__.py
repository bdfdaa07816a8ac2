"""What a task owner submits: cards, inputs, labels, splits."""
