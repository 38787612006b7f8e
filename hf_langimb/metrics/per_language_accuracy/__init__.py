"""Accuracy in each language."""
