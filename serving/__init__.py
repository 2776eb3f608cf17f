"""The service. It needs no torch, transformers or mlflow, and never imports `training`."""
