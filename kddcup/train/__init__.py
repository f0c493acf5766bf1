"""Training and what comes of it: the loop, its processes, its guard, its log, checkpoints and their use.

A stage's model, loss and order of work live in its folder.
"""
