"""Where a study's participants, trials and votes are kept: one database, and one of identities."""
