"""The manifests of deploy/kubernetes agree with the service, with themselves and with the CRDs.

`make kubernetes-check` checks Kubernetes' own kinds against their schemas. It does not know the
kinds of KEDA and of the Prometheus operator: those are checked here, against models that are
generated from their CRDs.
"""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from cloudcoil.models.prometheus_operator.v1 import PrometheusRule, ServiceMonitor
from pydantic import ValidationError

from serving import __version__
from serving.api import operations
from serving.observability.metrics import Metrics
from serving.prediction_log.log import CLOSE_SECONDS
from serving.settings import SECRET, Settings, load_settings, variables
from tests.conftest import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
OVERLAYS = sorted(path.parent for path in FOLDER.glob("overlays/*/kustomization.yaml"))
CUSTOM = {
    "ScaledObject": ScaledObject,
    "ServiceMonitor": ServiceMonitor,
    "PrometheusRule": PrometheusRule,
}
SETTINGS = {variables(name)[0] for name in Settings.model_fields}
Resource = dict[str, Any]


def built(folder: Path) -> list[Resource]:
    """The resources of a kustomization."""
    kubectl = ROOT / ".venv" / "bin" / "kubectl"
    done = subprocess.run([kubectl, "kustomize", folder], capture_output=True, check=True)
    return [resource for resource in yaml.safe_load_all(done.stdout) if resource]


@pytest.fixture(scope="module", params=OVERLAYS, ids=lambda path: path.name)
def overlay(request: pytest.FixtureRequest) -> list[Resource]:
    return built(request.param)


@pytest.fixture(scope="module")
def production() -> list[Resource]:
    return built(FOLDER / "overlays" / "production")


def only(resources: list[Resource], kind: str) -> Resource:
    (found,) = [resource for resource in resources if resource["kind"] == kind]
    return found


def pod(resources: list[Resource]) -> dict[str, Any]:
    spec: dict[str, Any] = only(resources, "StatefulSet")["spec"]["template"]["spec"]
    return spec


def container(resources: list[Resource]) -> dict[str, Any]:
    (found,) = pod(resources)["containers"]
    return dict(found)


def values(content: object, key: str) -> Iterator[Any]:
    """Every value of a key, however deep."""
    if isinstance(content, dict):
        yield from ([content[key]] if key in content else [])
        content = list(content.values())
    if isinstance(content, list):
        for part in content:
            yield from values(part, key)


def config(resources: list[Resource]) -> dict[str, str]:
    return dict(only(resources, "ConfigMap")["data"])


def test_there_is_an_overlay_for_one_replica_and_one_for_production() -> None:
    assert {path.name for path in OVERLAYS} >= {"single", "production"}


def test_every_variable_is_a_setting_and_its_value_is_accepted(
    overlay: list[Resource], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = config(overlay)
    names = {variable["name"] for variable in container(overlay)["env"]}
    assert given.keys() | names <= SETTINGS
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert settings.port == container(overlay)["ports"][0]["containerPort"]


def test_secrets_come_from_the_secret_under_their_own_names_and_never_from_the_config_map(
    overlay: list[Resource],
) -> None:
    secret = {variables(name)[0] for name in SECRET}
    references = {v["name"]: v["valueFrom"]["secretKeyRef"] for v in container(overlay)["env"]}
    assert references.keys() == secret
    assert all(reference["key"] == name for name, reference in references.items())
    assert not config(overlay).keys() & secret


def test_replicas_wait_for_their_keys_and_their_mongodb(production: list[Resource]) -> None:
    required = {
        variable["name"]
        for variable in container(production)["env"]
        if not variable["valueFrom"]["secretKeyRef"]["optional"]
    }
    assert required == {"TAGGER_API_KEYS", "TAGGER_MONGODB_URI"}


def test_probes_and_scrapes_use_open_routes_and_ports_of_the_container(
    overlay: list[Resource],
) -> None:
    routes = {route.path for route in operations.router.routes}  # type: ignore[attr-defined]
    spec = container(overlay)
    probes = [spec[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")]
    assert [probe["path"] for probe in probes] == ["/healthz", "/healthz", "/readyz"]
    monitors = [r for r in overlay if r["kind"] == "ServiceMonitor"]
    endpoints = [endpoint for r in monitors for endpoint in r["spec"]["endpoints"]]
    assert {target["path"] for target in probes + endpoints} <= routes
    ports = {port["name"] for port in spec["ports"]}
    services = [r for r in overlay if r["kind"] == "Service"]
    used = [*(probe["port"] for probe in probes), *values(services, "targetPort")]
    used += list(values(only(overlay, "NetworkPolicy")["spec"]["ingress"], "port"))
    assert set(used) <= ports
    assert {endpoint["port"] for endpoint in endpoints} <= {
        port["name"] for service in services for port in service["spec"]["ports"]
    }


def test_every_selector_finds_the_pods_or_the_service(overlay: list[Resource]) -> None:
    labels = only(overlay, "StatefulSet")["spec"]["template"]["metadata"]["labels"].items()
    selectors = [r["spec"]["selector"] for r in overlay if r["kind"] == "Service"]
    selectors += [
        resource["spec"][key]["matchLabels"]
        for resource in overlay
        for key in ("selector", "podSelector")
        if "matchLabels" in resource.get("spec", {}).get(key, {})
        and resource["kind"] != "ServiceMonitor"
    ]
    assert len(selectors) >= 4
    assert all(selector.items() <= labels for selector in selectors)
    for monitor in (r for r in overlay if r["kind"] == "ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        services = [r for r in overlay if r["kind"] == "Service"]
        assert sum(wanted <= r["metadata"]["labels"].items() for r in services) == 1


def test_the_names_of_the_cluster_can_be_asked(overlay: list[Resource]) -> None:
    # A label that kustomize adds to every selector would hide the name servers.
    rules = only(overlay, "NetworkPolicy")["spec"]["egress"]
    names = [rule for rule in rules if {port["port"] for port in rule["ports"]} == {53}]
    assert names[0]["to"][0]["podSelector"]["matchLabels"] == {"k8s-app": "kube-dns"}


def test_a_pod_has_time_to_stop_and_load_balancers_notice_before_it_does(
    overlay: list[Resource],
) -> None:
    given = config(overlay)
    delay, grace = (float(given[f"TAGGER_SHUTDOWN_{n}_SECONDS"]) for n in ("DELAY", "GRACE"))
    probe = container(overlay)["readinessProbe"]
    noticed = (probe["periodSeconds"] + probe["timeoutSeconds"]) * probe["failureThreshold"]
    assert delay >= noticed
    spent = delay + grace + CLOSE_SECONDS
    assert pod(overlay)["terminationGracePeriodSeconds"] >= spent + 5


def test_only_the_outbox_and_tmp_are_writable_for_an_ordinary_user(
    overlay: list[Resource],
) -> None:
    spec, security = container(overlay), pod(overlay)["securityContext"]
    own = spec["securityContext"]
    assert own["readOnlyRootFilesystem"]
    assert not own["allowPrivilegeEscalation"]
    assert own["capabilities"] == {"drop": ["ALL"]}
    assert security["runAsNonRoot"]
    user = re.search(r"^USER (\d+)$", (ROOT / "Dockerfile.serve").read_text(), re.MULTILINE)
    assert user
    assert {security["runAsUser"], security["fsGroup"]} == {int(user[1])}
    mounts = {mount["mountPath"]: mount["name"] for mount in spec["volumeMounts"]}
    assert mounts.keys() == {"/tmp", str(Path(config(overlay)["TAGGER_OUTBOX"]).parent)}
    claims = only(overlay, "StatefulSet")["spec"]["volumeClaimTemplates"]
    temporary = {volume["name"] for volume in pod(overlay)["volumes"]}
    assert {c["metadata"]["name"] for c in claims} | temporary == set(mounts.values())


def test_the_volume_holds_a_full_outbox_twice(overlay: list[Resource]) -> None:
    (claim,) = only(overlay, "StatefulSet")["spec"]["volumeClaimTemplates"]
    size = re.fullmatch(r"(\d+)Gi", claim["spec"]["resources"]["requests"]["storage"])
    assert size
    outbox_mb = int(config(overlay).get("TAGGER_OUTBOX_MB", Settings().outbox_mb))
    assert int(size[1]) * 2**30 >= 2 * outbox_mb * 10**6


def test_the_image_is_this_version(overlay: list[Resource]) -> None:
    assert container(overlay)["image"] == f"tweet-tagger:{__version__}"


def test_one_autoscaler_at_most_moves_the_replicas(overlay: list[Resource]) -> None:
    scalers = [r for r in overlay if r["kind"] in {"HorizontalPodAutoscaler", "ScaledObject"}]
    spec = only(overlay, "StatefulSet")["spec"]
    # `kubectl apply` would put a number in the manifest back over the autoscaler's.
    assert len(scalers) + ("replicas" in spec) == 1
    for scaler in scalers:
        target = scaler["spec"]["scaleTargetRef"]
        assert (target["kind"], target["name"]) == ("StatefulSet", "tweet-tagger")


def test_the_autoscaler_asks_for_metrics_of_the_service(production: list[Resource]) -> None:
    (trigger,) = only(production, "ScaledObject")["spec"]["triggers"]
    query = trigger["metadata"]["query"]
    names = set(re.findall(r"\btagger_\w+", query))
    rendered = Metrics().render().decode()
    assert names
    assert all(
        re.search(rf"^{name}\{{phase=\"queue\"\}}", rendered, re.MULTILINE) for name in names
    )
    namespaces = set(re.findall(r'namespace="([^"]+)"', query))
    assert namespaces == {only(production, "StatefulSet")["metadata"]["namespace"]}
    assert float(trigger["metadata"]["threshold"]) < load_settings().max_queue_seconds


def test_no_kind_goes_unchecked(overlay: list[Resource]) -> None:
    # On the command line, kubernetes-validate only warns of a kind that it does not know.
    unknown = set()
    for resource in overlay:
        try:
            kubernetes_validate.validate(
                resource, kubernetes_validate.latest_version(), strict=True
            )
        except kubernetes_validate.SchemaNotFoundError:
            unknown.add(resource["kind"])
    assert unknown <= CUSTOM.keys()


@pytest.mark.parametrize("kind", CUSTOM)
def test_a_custom_resource_fits_its_definition(production: list[Resource], kind: str) -> None:
    resource = only(production, kind)
    assert fits(resource)


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        ("ScaledObject", "minReplicaCount", "three"),
        ("ScaledObject", "minReplicas", 3),
        ("ServiceMonitor", "endpoints", None),
        ("ServiceMonitor", "endpoint", []),
        ("PrometheusRule", "groups", "all"),
    ],
)
def test_a_custom_resource_with_a_mistake_is_found(
    production: list[Resource], kind: str, key: str, value: object
) -> None:
    resource = json.loads(json.dumps(only(production, kind)))
    resource["spec"][key] = value
    assert not fits(resource)


def fits(resource: Resource) -> bool:
    """Whether a resource fits the model of its kind, which drops a field that it does not know."""
    try:
        model = CUSTOM[resource["kind"]].model_validate(resource)
    except ValidationError:
        return False
    return model.model_dump(mode="json", by_alias=True, exclude_unset=True) == resource
