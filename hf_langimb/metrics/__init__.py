"""Metrics as `evaluate` modules, each in a folder of its own: `evaluate.load("hf_langimb/metrics/NAME")`, offline."""
