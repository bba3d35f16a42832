"""What reports are made with: plots, a page, and how conditions look. Knows no run, no study."""
