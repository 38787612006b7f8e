"""Datasets: how any of them is opened and read, and the mini-XNLI generator."""
