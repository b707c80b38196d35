"""The command line. Importing it loads no torch: each command imports what it needs."""

from ppl_vae.cli.main import app, main

__all__ = ["app", "main"]
