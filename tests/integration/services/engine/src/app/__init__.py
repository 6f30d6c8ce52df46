"""The engine: takes jobs, runs them to their end."""
