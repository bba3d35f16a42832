"""Replies graded by another model through an OpenAI-compatible endpoint."""
