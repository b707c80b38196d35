"""Damaged inputs, kills at random moments and a full disk: nothing may end in a traceback or be lost.

``python -m benchmarks.campaign`` runs all of it from one seed and prints counts.
"""
