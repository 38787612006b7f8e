"""The Trainer whose loss knows the language of each row."""
