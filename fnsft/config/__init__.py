"""Settings of every stage and of a whole experiment. Imports no numerical library."""
