"""What the stages share: tables, texts, pictures, networks, training, ranking and reports.

The stages themselves are packages beside this one; only ``kddcup.stages`` lists them.
"""
