"""The service. It needs no torch, transformers or mlflow, and never imports `training`."""

__version__ = "0.6.0"
