"""Models and rows -> numbers: quality by language, the language probe, token attributions."""
