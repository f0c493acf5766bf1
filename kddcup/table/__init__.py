"""The competition's table: its lines, rows and refused rows, and the pass that makes it a region store.

What the rows mean to a model is in data. How words are cut (text) is not known here.
"""
