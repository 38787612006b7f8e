"""Kept results of this project: rendered again as tables of pages, cards and figures."""
