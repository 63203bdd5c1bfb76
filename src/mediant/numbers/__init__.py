"""Exact number theory on integers and doubles: pure functions of arrays, without torch."""
