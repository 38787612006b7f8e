"""Data sets: XNLI, the mini-XNLI generator, and the training mixtures built from them."""
