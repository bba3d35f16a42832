"""What a study asks: from its file, checked, to a version that no longer changes."""
