"""The pipeline from labelled tweets to an evaluated bundle; each stage of dvc.yaml is a module."""
