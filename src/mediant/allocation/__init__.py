"""How bytes are spent: one file is one strategy, which finds a plan for a size."""
