"""The pipeline from labelled tweets to a judged model bundle; each stage of `dvc.yaml` is a module."""
