"""What a task owner submits: cards, images or texts, labels, splits."""
