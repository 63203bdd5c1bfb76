"""Pruning: a pattern says where zeros may lie, a score says which weights are worth least."""
