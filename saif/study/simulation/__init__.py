"""Whole studies played by bots, whose effect is known."""
