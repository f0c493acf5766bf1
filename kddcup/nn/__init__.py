"""What the stages' models are made of: the image encoder, word layers, and what scoring asks of a model.

A stage's own modules and its loss live in its folder.
"""
