"""From a study's votes to what may be said about them: estimates, models, a report."""
