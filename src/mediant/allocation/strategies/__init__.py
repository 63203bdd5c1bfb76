"""Strategies, one file each; `mediant.allocation` says what they offer."""
