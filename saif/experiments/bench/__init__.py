"""Speed of a model on this machine, alone and with many callers at once."""
