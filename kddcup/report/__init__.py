"""The evaluation page: what the models rank where, and why.

Predictions are read, never made here; metrics and blends are in rank.
"""
