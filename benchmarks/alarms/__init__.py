"""The verdict on posteriors whose truth is known: how often it is wrong."""
