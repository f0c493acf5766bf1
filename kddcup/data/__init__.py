"""What the stages train on, written and read: regions, products, queries, negatives, batches.

No model and no training loop lives here.
"""
