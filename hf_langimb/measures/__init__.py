"""Models and rows -> numbers: quality by language, the language probe, token attributions."""

POOLINGS = ("cls", "pooler", "mean", "last")
PROTOCOLS = ("text", "code")
