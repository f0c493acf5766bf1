"""Scores and what is made of them: predictions, NDCG, explanations, blends and their weights.

How a model computes a score is its own business.
"""
