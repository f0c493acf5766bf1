"""What happens to scores: predictions, metrics, explanations, blends and their weights; the baseline.

How a model computes a score is its own business.
"""
