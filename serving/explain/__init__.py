"""Explanations by LIME: how much each word speaks for a label."""
