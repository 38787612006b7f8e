"""Cloned languages: how imbalance between languages affects what a language model shares (arXiv 2404.07982)."""
