"""Token attributions of a whole data set: Owen and Shapley values, their store, and differences between models."""
