"""The Hub: `push` publishes a run that `prepare` has checked as a whole, `download` gives models back."""
