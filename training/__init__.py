"""The pipeline from labelled tweets to a judged bundle; each stage of dvc.yaml is a module."""
