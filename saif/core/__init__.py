"""Pure maths and values: no files, no model, no clock."""
