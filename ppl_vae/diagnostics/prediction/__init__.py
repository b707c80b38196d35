"""Data drawn anew beside the data."""
