"""A posterior that is kept while data come in."""
