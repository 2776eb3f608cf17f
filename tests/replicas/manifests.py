"""What deploy/kubernetes says about a replica: settings, readiness probe, grace time."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from serving.settings import PREFIX
from tests.support.service import ROOT

OVERLAY = ROOT / "deploy" / "kubernetes" / "overlays" / "production"
# A replica of the rehearsal listens on a port, and has a disk, of its own.
OWN = {"HOST", "PORT", "OUTBOX"}


@dataclass(frozen=True, slots=True)
class Manifests:
    """The part of an overlay that a rehearsal without a cluster can keep to.

    settings: of the ConfigMap, without their prefix.
    probe: the readiness probe, as in the manifest: path, seconds, number of failures.
    grace: seconds between SIGTERM and SIGKILL.
    """

    settings: dict[str, str]
    probe: dict[str, Any]
    grace: float


def load_manifests(overlay: Path = OVERLAY) -> Manifests:
    """Return what an overlay says once kustomize has put it together."""
    kubectl = Path(sys.executable).with_name("kubectl")
    command = [str(kubectl), "kustomize", str(overlay)]
    rendered = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    by_kind = {resource["kind"]: resource for resource in yaml.safe_load_all(rendered)}
    pod = by_kind["StatefulSet"]["spec"]["template"]["spec"]
    names = {name.removeprefix(PREFIX): name for name in by_kind["ConfigMap"]["data"]}
    return Manifests(
        settings={
            name: by_kind["ConfigMap"]["data"][full]
            for name, full in names.items()
            if name not in OWN
        },
        probe=pod["containers"][0]["readinessProbe"],
        grace=pod["terminationGracePeriodSeconds"],
    )
