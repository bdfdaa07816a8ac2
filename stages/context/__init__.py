"""What every stage has around it: its line, its encoder, its files, its run."""
