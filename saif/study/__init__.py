"""User studies: their design, the plan of who sees what, the store of votes, and the analysis."""
