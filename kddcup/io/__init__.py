"""Files, whole or not at all, and read without running what is in them; ragged arrays; users' errors.

Nothing here knows what the files are about.
"""
