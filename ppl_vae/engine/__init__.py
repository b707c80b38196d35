"""Tracing and compiling Pyro programs."""
