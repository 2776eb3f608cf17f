"""Explanations by LIME: how much each word adds to the probability of a label or an attribute."""
