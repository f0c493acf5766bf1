"""What stage 1 wrote, as a stage reads it: regions, products, queries, negatives, batches.

No model and no training loop lives here.
"""
