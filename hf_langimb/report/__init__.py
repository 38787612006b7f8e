"""Figures and one page, drawn from results.json alone."""
