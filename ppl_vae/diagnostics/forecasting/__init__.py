"""What a fit says of later events, and how well it said it."""
