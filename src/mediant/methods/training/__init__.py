"""Training: what is left to learn once the integers are chosen."""
