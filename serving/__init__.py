"""What answers requests: it needs no torch, transformers or mlflow, and never imports `training`."""
