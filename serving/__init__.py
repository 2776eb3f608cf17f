"""What answers requests. It needs no torch, transformers or mlflow, and imports no `training`."""
