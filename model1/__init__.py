"""Stage 3: each word of the query against the image, trained pairwise."""
