"""How much predictions depend on the language."""
