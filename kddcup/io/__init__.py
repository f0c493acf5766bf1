"""Atomic writes, reads that run nothing of what is in a file, ragged arrays, and users' errors.

Nothing here knows what the files are about.
"""
