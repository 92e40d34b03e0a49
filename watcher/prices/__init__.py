"""What a bitcoin costs: quotes with their source and time."""
