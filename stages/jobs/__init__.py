"""What single commands have done by a process with torch."""
