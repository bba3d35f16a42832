"""Search a preset's best setting: what is tried, how much of it, and the search."""
