"""Planted faults: nets with one known flaw each, quantised as a user would, and what the explanation says first."""
