"""Stage 4: the whole sentence against the image, trained pointwise."""
