"""How many rows each language has of each label, and what follows from that. Needs only numpy and Arrow."""
