"""Every change of a line: onboarding, retraining, retiring, and decisions of people."""
