"""The Hub: `push_run` publishes a run after checking all of it, `load_run` loads its models."""
