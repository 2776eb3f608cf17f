"""Stage 6: log the metrics to the training's MLflow run, and register the bundle.

models/candidate, reports -> MLflow: a version with the alias `candidate`
                          -> reports/registered.json: run, model name, version
"""

import logging
import warnings

import mlflow

from serving.bundle import ATTRIBUTES, LABELS
from training.config import PARAMS, SOURCES, RegisterParams, load_params
from training.errors import run_stage
from training.files import flatten, read_json, write_json
from training.paths import CANDIDATE, FINETUNED, REPORTS
from training.tracking import tracked_run

EXAMPLE = ["have a lovely day everyone", "what an idiot, delete your account"]


def main() -> None:
    """Register models/candidate."""
    params = load_params("register", RegisterParams)
    manifest, metrics = read_json(CANDIDATE / "bundle.json"), read_json(CANDIDATE / "metrics.json")
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    with (
        warnings.catch_warnings(),
        tracked_run(read_json(FINETUNED / "run.json")["run_id"]) as run,
    ):
        warnings.simplefilter("ignore")  # MLflow's own, about type hints and pip
        from mlflow.models import ModelSignature
        from mlflow.types import ColSpec, Schema

        mlflow.set_tags(
            {f"bundle.{key}": manifest[key] for key in ("version", "data", "data_sha", "git_sha")}
        )
        mlflow.log_metrics(flatten(metrics))
        mlflow.log_artifacts(str(REPORTS / "plots"), "plots")
        mlflow.log_artifacts(str(REPORTS / "drift"), "drift")
        mlflow.log_artifact(str(REPORTS / "rules.json"), "drift")
        mlflow.log_artifact(str(PARAMS), "configs")
        mlflow.log_artifact(str(SOURCES), "configs")
        logged = mlflow.pyfunc.log_model(
            name="bundle",
            python_model="training/release/pyfunc.py",
            artifacts={"bundle": str(CANDIDATE)},
            code_paths=["serving"],
            signature=ModelSignature(
                inputs=Schema([ColSpec("string")]),
                outputs=Schema(
                    [
                        ColSpec("string", "label"),
                        *(ColSpec("float", name) for name in (*LABELS, *ATTRIBUTES)),
                    ]
                ),
            ),
            input_example=EXAMPLE,
            pip_requirements="requirements/serve.txt",
            registered_model_name=params.model,
        )
        client = mlflow.MlflowClient()
        version = logged.registered_model_version
        for key in ("version", "data"):
            client.set_model_version_tag(params.model, version, f"bundle.{key}", manifest[key])
        # Last: services that watch the alias fetch the version now.
        client.set_registered_model_alias(params.model, "candidate", version)
    registered = {"run_id": run, "model": params.model, "version": int(version)}
    write_json(REPORTS / "registered.json", registered)
    print(f"registered {params.model} version {version} as candidate, run {run}")


if __name__ == "__main__":
    run_stage(main)
