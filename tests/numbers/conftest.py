"""Hypothesis measures no time here: a shared machine would make it fail."""

from hypothesis import settings

settings.register_profile("mediant", deadline=None)
settings.load_profile("mediant")
