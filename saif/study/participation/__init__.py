"""What a participant does, step by step, from consent to code."""
