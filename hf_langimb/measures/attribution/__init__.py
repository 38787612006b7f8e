"""Token attributions of a dataset: Owen and Shapley values, their store, and differences between models."""

from typing import Literal

OWEN_ORDERS = "owen_orders"  # the default method
METHODS, MASKINGS = (OWEN_ORDERS, "owen", "shapley"), ("ids", "string")
DTYPES, BUDGET_UNITS = ("float32", "float64", "bfloat16"), ("evaluations", "forwards")
TokenSet = Literal["positive", "neutral", "negative"]
SETS: tuple[TokenSet, ...] = ("positive", "neutral", "negative")  # tokens, by the sign of what they add
