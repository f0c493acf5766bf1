"""Stage 2: the image encoder learns from tagging and captioning."""
