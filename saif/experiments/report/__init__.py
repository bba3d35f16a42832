"""Runs as one page: its claims, figures and samples."""
