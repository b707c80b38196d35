"""Answers beside each other: distances with their errors, and whether a reference is one."""
