"""Skills of players, teams and drivers from what games they played and how these ended."""
