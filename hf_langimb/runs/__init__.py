"""What a command does, step by step."""
