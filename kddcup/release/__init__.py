"""The archives of a finished run, and their manifest.

Whoever has them gets the run's submission without training. Nothing here computes a score.
"""
