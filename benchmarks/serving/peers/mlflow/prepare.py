"""Saves the bundle as an MLflow model, as training/release/register.py does.

python prepare.py BUNDLE FOLDER    (in the project's root)
"""

import sys

import mlflow
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

if __name__ == "__main__":
    labels = [ColSpec("float", label) for label in ("hate", "offensive", "neither")]
    mlflow.pyfunc.save_model(
        sys.argv[2],
        python_model="training/release/pyfunc.py",
        artifacts={"bundle": sys.argv[1]},
        code_paths=["serving"],
        signature=ModelSignature(
            inputs=Schema([ColSpec("string")]),
            outputs=Schema([ColSpec("string", "label"), *labels]),
        ),
        pip_requirements=[],  # this environment serves it
    )
