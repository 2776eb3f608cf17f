"""The pipeline from labelled tweets to a sealed, measured bundle; a stage is a module."""
