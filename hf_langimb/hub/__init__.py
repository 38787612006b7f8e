"""The Hub: `push_run` publishes a run that was checked as a whole, `load_run` gives its models back."""
