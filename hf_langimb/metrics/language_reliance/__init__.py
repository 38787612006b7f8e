"""How far predictions follow the language."""
