"""docker-compose.yml and the Kubernetes base against their schemas, and what both promise of confining and draining."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from server.settings import load_settings, unknown_names

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
KUBERNETES = ROOT / "deploy" / "kubernetes"
ENVIRONMENT_WITH_BIN = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
LABELS = {"app.kubernetes.io/name": "autocompressor"}


def _checked(*command: str | Path, given: str | None = None) -> str:
    """What a tool prints; skips where it is not installed."""
    program = shutil.which(str(command[0]), path=ENVIRONMENT_WITH_BIN)
    if program is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run(
        [program, *map(str, command[1:])], input=given, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return dict(yaml.safe_load(COMPOSE.read_text())["services"])


@pytest.fixture(scope="module")
def resources() -> dict[str, Any]:
    """By kind, as written; `kubectl kustomize` adds labels and the namespace."""
    listed = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["resources"]
    found = [yaml.safe_load((KUBERNETES / name).read_text()) for name in listed]
    return {each["kind"]: each for each in found}


def test_compose_is_of_its_specification() -> None:
    _checked("check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE)


def test_services_are_confined_and_listen_on_this_machine_alone(services: dict[str, Any]) -> None:
    assert {"server", "server-gpu", "redis", "prometheus", "grafana"} == services.keys()
    for name, service in services.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert {"build", "image"} & service.keys(), name
        assert re.fullmatch(r"[\w/]+:v?[\d.]+(-alpine)?", service.get("image", "a:1")), f"{name} has no version"


def test_services_mount_what_there_is(services: dict[str, Any]) -> None:
    mounted = [volume for service in services.values() for volume in service.get("volumes", [])]
    volumes = yaml.safe_load(COMPOSE.read_text())["volumes"]
    for source, _, *mode in (volume.split(":") for volume in mounted):
        if source.startswith("."):
            assert (ROOT / source).is_dir(), source
            assert mode == ["ro"], source
        else:
            assert source in volumes


def test_redis_keeps_what_it_was_given(services: dict[str, Any]) -> None:
    command = " ".join(services["redis"]["command"])
    for option in ("--appendonly yes", "--appendfsync always", "--maxmemory-policy noeviction"):
        assert option in command


def test_the_gpu_takes_the_server_s_place(services: dict[str, Any]) -> None:
    gpu = services["server-gpu"]
    assert gpu["profiles"] == ["gpu"]
    assert gpu["ports"] == services["server"]["ports"]
    assert gpu["networks"]["default"]["aliases"] == ["server"]


def test_manifests_are_of_their_schemas() -> None:
    written = [path for path in KUBERNETES.glob("*.yaml") if path.name not in ("kustomization.yaml", "monitor.yaml")]
    assert len(written) == 5
    _checked("kubernetes-validate", "--strict", *written)


def test_kustomize_builds_what_fits_schemas(tmp_path: Path) -> None:
    built = _checked("kubectl", "kustomize", KUBERNETES)
    made = {each["kind"]: each for each in yaml.safe_load_all(built)}
    assert {each["metadata"]["namespace"] for each in made.values()} == {"autocompressor"}
    (container,) = made["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert container["envFrom"][0]["configMapRef"]["name"] == made["ConfigMap"]["metadata"]["name"]
    assert ":" in container["image"]
    # the operator's kinds are not among Kubernetes' own
    del made["ServiceMonitor"]
    built_file = tmp_path / "built.yaml"
    built_file.write_text(yaml.safe_dump_all(made.values()))
    _checked("kubernetes-validate", "--strict", built_file)


def test_everything_selects_the_server_s_pods(resources: dict[str, Any]) -> None:
    (pair,) = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["labels"]
    assert (pair["pairs"], pair["includeTemplates"]) == (LABELS, True)
    assert resources["Service"]["spec"]["selector"] == LABELS
    for kind in ("Deployment", "PodDisruptionBudget", "ServiceMonitor"):
        assert resources[kind]["spec"]["selector"] == {"matchLabels": LABELS}, kind
    assert resources["NetworkPolicy"]["spec"]["podSelector"] == {"matchLabels": LABELS}
    target = resources["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", resources["Deployment"]["metadata"]["name"])


def test_pods_are_confined_probed_and_drained(resources: dict[str, Any]) -> None:
    pod = resources["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert f"USER {pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}\n" in dockerfile
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    probes = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
    assert probes == {"startup": "/livez", "liveness": "/livez", "readiness": "/readyz"}
    _, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    configured = _configured()
    assert pod["terminationGracePeriodSeconds"] > int(seconds) + configured.shutdown_seconds
    # what Kubernetes would add for a Service of this name looks like settings, and the server refuses unknown ones
    assert pod["enableServiceLinks"] is False
    assert unknown_names({"AUTOCOMPRESSOR_SERVICE_HOST": "10.0.0.1"})


def test_alerts_ask_for_the_job_that_is_scraped(resources: dict[str, Any]) -> None:
    monitor = resources["ServiceMonitor"]["spec"]
    assert monitor["jobLabel"] in LABELS
    assert f'job="{LABELS[monitor["jobLabel"]]}"' in (ROOT / "deploy" / "prometheus" / "alerts.yml").read_text()
    assert {each["port"] for each in monitor["endpoints"]} <= {
        port["name"] for port in resources["Service"]["spec"]["ports"]
    }


def test_the_image_s_files_may_be_read_only() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    final = dockerfile[dockerfile.rindex("\nFROM ") :]
    assert "/livez" in final
    assert "--require-hashes" in dockerfile
    written = re.findall(r"(?:HF_HOME|AUTOCOMPRESSOR_STORE)=\S*?(/\w+)/", final)
    assert written == ["/data", "/data"]


def _configured() -> Any:
    (generated,) = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["configMapGenerator"]
    environment = dict(literal.split("=", 1) for literal in generated["literals"])
    assert unknown_names(environment) == []
    return load_settings(
        {}, {name.removeprefix("AUTOCOMPRESSOR_").lower(): value for name, value in environment.items()}
    )
