"""Instructions and presets as values, their file formats, and the library of them on disk."""
