"""What only the machine's owner is offered: another model, and presets to build."""
