"""From what a user asks for to a run and its tables: suites, plans, and the public functions."""
