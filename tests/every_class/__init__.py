"""A tiny model of every class of transformers that reads text, and what Mediant makes of it."""
