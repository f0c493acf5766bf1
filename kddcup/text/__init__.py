"""From a query to token ids: segmentation, vocabularies, and the word vectors that belong to them.

Nothing here knows a table, an image or a model.
"""
