"""Search in a catalogue of products: an index of encoded images, and the exact ranking of all of it.

The page of ``python -m kddcup.search serve`` is here too. How words are cut, images are encoded and pairs are
scored is for the wings above; docs/search.md has the mathematics.
"""
