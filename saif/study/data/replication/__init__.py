"""Scripts that go into an export and redo its main estimate from `trials.csv`, without saif."""
