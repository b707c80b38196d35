"""A fit's settings, its folder, and what each command does with a run."""
