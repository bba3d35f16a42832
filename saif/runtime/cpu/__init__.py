"""Decoding steps of our own for a CPU: in PyTorch, and compiled from C."""
