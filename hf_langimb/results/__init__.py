"""Numbers -> everything that shows them: results.json, tables, plots, cards and the page."""
