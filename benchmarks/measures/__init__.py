"""Both sides of every row: checked to compute the same quantity, then measured in turn."""
