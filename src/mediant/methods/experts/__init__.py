"""Experts: layers of which each token uses a part, and how a dense layer becomes one."""
