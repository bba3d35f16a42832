"""That nothing given gets lost, and nothing withdrawn stays: backups, copies, erasure."""
