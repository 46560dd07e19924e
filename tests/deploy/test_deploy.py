"""What can be checked of ``deploy/`` without Docker and Kubernetes: KubeRay's CRDs, and what docs/deploy.md says."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from distributed.cli.main import app
from distributed.cluster.ray_metrics import EXPORTED

ROOT = Path(__file__).resolve().parent.parent.parent
DEPLOY = ROOT / "deploy"
CRDS = ROOT.parent / "shared" / "data" / "kuberay"
MANIFESTS = sorted([*(DEPLOY / "kubernetes").rglob("*.yaml"), *(DEPLOY / "mlflow" / "kubernetes").glob("*.yaml")])
RAY = {"RayJob": DEPLOY / "kubernetes/base/rayjob.yaml", "RayCluster": DEPLOY / "kubernetes/base/raycluster.yaml"}


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pod's specification in the manifests, with where it is."""

    def within(value: Any, place: str) -> Iterator[tuple[str, dict[str, Any]]]:
        if isinstance(value, dict):
            if "containers" in value:
                yield place, value
            for key, part in value.items():
                yield from within(part, f"{place}.{key}")
        elif isinstance(value, list):
            for index, part in enumerate(value):
                yield from within(part, f"{place}[{index}]")

    for path in MANIFESTS:
        for document in documents(path):
            yield from within(document, path.name)


def strict(schema: Any) -> Any:
    """A CRD's schema with unknown keys refused, as the API server's strict validation does."""
    if isinstance(schema, dict):
        made = {key: strict(value) for key, value in schema.items()}
        if schema.get("x-kubernetes-int-or-string"):
            return {"type": ["integer", "string"]}
        open_ended = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
        if "properties" in schema and not open_ended:
            made["additionalProperties"] = False
        return made
    return [strict(value) for value in schema] if isinstance(schema, list) else schema


@pytest.mark.skipif(not CRDS.is_dir(), reason=f"KubeRay's CRDs are not at {CRDS}")
@pytest.mark.parametrize("kind", RAY)
def test_manifests_are_what_kuberay_takes(kind: str) -> None:
    (crd,) = documents(CRDS / f"ray.io_{kind.lower()}s.yaml")
    version = next(v for v in crd["spec"]["versions"] if v["name"] == "v1")
    schema = strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    (document,) = documents(RAY[kind])
    assert (document["apiVersion"], document["kind"]) == ("ray.io/v1", kind)
    jsonschema.Draft202012Validator(schema).validate(document)
    broken = json.loads(json.dumps(document))
    broken["spec"]["backoffLimits"] = 3
    with pytest.raises(jsonschema.ValidationError, match="backoffLimits"):
        jsonschema.Draft202012Validator(schema).validate(broken)


def test_there_are_pods_to_look_at() -> None:
    assert len(list(pods())) >= 6


@pytest.mark.parametrize(("place", "pod"), list(pods()), ids=lambda value: value if isinstance(value, str) else "")
def test_pods_run_as_nobody_with_a_read_only_root_and_limits(place: str, pod: dict[str, Any]) -> None:
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    autoscaled = "headGroupSpec" in place
    assert autoscaled or pod["automountServiceAccountToken"] is False
    for container in pod["containers"]:
        rights = container["securityContext"]
        assert rights["readOnlyRootFilesystem"] is True
        assert rights["allowPrivilegeEscalation"] is False
        assert rights["capabilities"] == {"drop": ["ALL"]}
        assert rights["runAsUser"] == 10001
        assert set(container["resources"]) == {"requests", "limits"}
        assert {"cpu", "memory"} <= set(container["resources"]["limits"])
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        if container["name"] in ("ray-head", "ray-worker", "mlflow"):
            assert {"readinessProbe", "livenessProbe"} <= set(container)


def test_a_restarted_job_continues_from_shared_storage() -> None:
    spec = documents(RAY["RayJob"])[0]["spec"]
    assert spec["backoffLimit"] >= 1
    assert spec["shutdownAfterJobFinishes"] is True
    assert "--resume latest" in spec["entrypoint"]
    assert "--output.run_dir /runs" in spec["entrypoint"]
    claims = [v for _, pod in pods() for v in pod["volumes"] if v["name"] == "runs"]
    assert {volume["persistentVolumeClaim"]["claimName"] for volume in claims} == {"metasrl-runs"}
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token", "secretName": "ray-auth-token"}


def entrypoints() -> list[str]:
    found = [documents(RAY["RayJob"])[0]["spec"]["entrypoint"]]
    for overlay in (DEPLOY / "kubernetes/overlays").glob("*/kustomization.yaml"):
        for patch in documents(overlay)[0]["patches"]:
            found += [
                change["value"] for change in yaml.safe_load(patch["patch"]) if change["path"] == "/spec/entrypoint"
            ]
    return found


@pytest.mark.parametrize("entrypoint", entrypoints())
def test_entry_points_name_run_files_and_options_that_exist(entrypoint: str) -> None:
    from distributed.settings.run_file import load_config

    words = shlex.split(entrypoint)
    assert words[:2] == ["metasrl", "train"]
    assert "train" in {command.callback.__name__ for command in app.registered_commands if command.callback}
    given = dict(zip(words[3::2], words[4::2], strict=True))
    assert given.pop("--resume") == "latest"
    run_file = DEPLOY / "runs" / Path(words[2]).name
    config = load_config(run_file, [(key.removeprefix("--"), value) for key, value in given.items()])
    assert config.cluster.address == "auto"


def test_overlays_change_what_is_there() -> None:
    base = documents(DEPLOY / "kubernetes/base/kustomization.yaml")[0]
    for name in base["resources"]:
        assert (DEPLOY / "kubernetes/base" / name).is_file()
    known = {(d["kind"], d["metadata"]["name"]): d for path in MANIFESTS for d in documents(path) if "metadata" in d}
    for overlay in (DEPLOY / "kubernetes/overlays").glob("*/kustomization.yaml"):
        document = documents(overlay)[0]
        assert document["resources"] == ["../../base"]
        for patch in document["patches"]:
            target = known[patch["target"]["kind"], patch["target"]["name"]]
            for change in yaml.safe_load(patch["patch"]):
                value: Any = target
                for key in change["path"].strip("/").split("/"):
                    value = value[int(key)] if isinstance(value, list) else value[key]
                assert type(value) is type(change["value"]), change["path"]


def test_a_policy_stands_before_the_ports_of_every_ray_pod_and_the_token_is_a_secret() -> None:
    (policy,) = documents(DEPLOY / "kubernetes/base/network_policy.yaml")
    behind = policy["spec"]["podSelector"]["matchLabels"]
    assert policy["kind"] == "NetworkPolicy"
    assert "Ingress" in policy["spec"]["policyTypes"]
    assert all("from" in rule for rule in policy["spec"]["ingress"]), "a rule without it lets everybody in"
    assert "network_policy.yaml" in documents(DEPLOY / "kubernetes/base/kustomization.yaml")[0]["resources"]
    for kind, path in RAY.items():
        (document,) = documents(path)
        spec = document["spec"] if kind == "RayCluster" else document["spec"]["rayClusterSpec"]
        assert spec["authOptions"] == {"mode": "token", "secretName": "ray-auth-token"}
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            assert behind.items() <= group["template"]["metadata"]["labels"].items()


def test_no_manifest_holds_a_secret() -> None:
    for path in [*MANIFESTS, DEPLOY / "mlflow/compose.yaml"]:
        for document in documents(path):
            assert document.get("kind") != "Secret"
        assert not re.search(r"(?i)(password|secret|token|key)\s*:\s*[\"']?[A-Za-z0-9+/]{12,}", path.read_text()), path


def test_the_tracking_server_listens_on_loopback() -> None:
    compose = documents(DEPLOY / "mlflow/compose.yaml")[0]
    published = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert published == ["127.0.0.1:5000:5000"]
    assert compose["networks"]["inside"] == {"internal": True}
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert set(service.get("secrets", [])) <= set(compose["secrets"]), name
        assert ":" in service["image"], "a tag"


def test_cluster_launcher_files_start_ray_on_loopback() -> None:
    for path in (DEPLOY / "cluster").glob("*.yaml"):
        document = documents(path)[0]
        assert document["cluster_name"] == "metasrl"
        (start,) = (line for line in document["head_start_ray_commands"] if "ray start" in line)
        assert "--dashboard-host=127.0.0.1" in start
        assert "--read-only" in document["docker"]["run_options"]


def test_the_dashboard_shows_metrics_that_exist() -> None:
    dashboard = json.loads((DEPLOY / "monitoring/grafana/dashboards/metasrl.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    expressions += [variable["query"] for variable in dashboard["templating"]["list"]]
    shown = {name for text in expressions for name in re.findall(r"ray_metasrl_\w+", text)}
    assert shown == {metric.prometheus for metric in EXPORTED}
    for folder in ("datasources/prometheus.yaml", "dashboards/metasrl.yaml"):
        assert documents(DEPLOY / "monitoring/grafana/provisioning" / folder)[0]["apiVersion"] == 1


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n", " ", (DEPLOY / "image/Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def test_the_image_is_pinned_and_its_last_stage_has_no_compiler_and_no_root() -> None:
    found = instructions()
    stages = [index for index, (word, _) in enumerate(found) if word == "FROM"]
    assert len(stages) == 2
    last = found[stages[-1] :]
    assert not any("build-essential" in rest or "gcc" in rest for _, rest in last)
    assert [rest for word, rest in last if word == "USER"] == ["10001:10001"]
    users = [index for index, (word, _) in enumerate(last) if word == "USER"]
    assert not any(word == "RUN" for word, _ in last[users[0] :]), "nothing is run as root after it"
    for word, rest in found:
        assert word in {"ARG", "FROM", "ENV", "RUN", "WORKDIR", "COPY", "USER", "CMD"}, word
        if word == "RUN" and "apt-get install" in rest:
            packages = re.findall(r"--no-install-recommends ([^&]*)", rest)[0].split()
            assert all("=" in package for package in packages), packages
        if word == "COPY" and "--from" not in rest:
            for source in [part for part in rest.split()[:-1] if not part.startswith("--")]:
                assert (ROOT / source).exists(), source
    assert any("VARIANT=cpu" in rest for word, rest in found if word == "ARG")


def test_the_lock_pins_everything_that_the_project_asks_for() -> None:
    lines = [
        line for line in (DEPLOY / "image/requirements.lock").read_text().splitlines() if line[:1] not in ("#", "")
    ]
    locked = {}
    for line in lines:
        name, separator, version = line.partition("==")
        assert separator, f"{line}: not pinned"
        locked[name.lower().replace("_", "-")] = version
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for wanted in project["dependencies"]:
        name = re.split(r"[\[<>=]", wanted)[0].lower()
        assert name in locked, name
    assert locked["ray"] == "2.60.0"
    assert locked["torch"] == "2.13.0"
    assert "safety-gymnasium" in locked


def test_only_what_the_image_needs_goes_to_its_build() -> None:
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [rest.split()[0] for word, rest in instructions() if word == "COPY" and not rest.startswith("--")]
    assert {part for part in copied if part != "pyproject.toml"} <= {*kept, "pyproject.toml"}
    assert not any(name.startswith((".git", "runs", "mlruns")) for name in kept)


def test_the_dockerfile_has_no_lint() -> None:
    tool = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([tool, DEPLOY / "image/Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
