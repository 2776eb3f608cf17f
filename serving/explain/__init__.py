"""Explanations by LIME: how much each word contributes to a label's probability."""
