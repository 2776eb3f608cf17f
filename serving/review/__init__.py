"""The review queue: which predictions people look at, and what they say about them."""
