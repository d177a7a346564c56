"""The container files, checked for structure: no container engine is needed."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
LOCK = ROOT / "requirements/cluster.txt"


@pytest.fixture(scope="module")
def compose() -> dict:
    return yaml.safe_load((DOCKER / "compose.yaml").read_text())


@pytest.fixture(scope="module")
def dockerfile() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, continuation lines joined."""
    text = re.sub(r"\\\n\s*", "", (DOCKER / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


def option(service: dict, name: str) -> str:
    return next(word.partition("=")[2] for word in service["command"] if word.startswith(f"{name}="))


# --- compose


def test_cluster_is_a_head_two_workers_and_a_builder(compose: dict) -> None:
    assert set(compose["services"]) == {"head", "worker", "builder"}
    assert compose["services"]["worker"]["deploy"]["replicas"] == 2


def test_all_nodes_run_the_same_image_built_from_this_repository(compose: dict) -> None:
    services = compose["services"].values()

    assert len({service["image"] for service in services}) == 1
    for service in services:
        context = (DOCKER / service["build"]["context"]).resolve()
        assert context == ROOT
        assert (context / service["build"]["dockerfile"]).is_file()


def test_workers_and_builder_join_the_heads_address_once_it_is_healthy(compose: dict) -> None:
    services = compose["services"]
    address = f"head:{option(services['head'], '--port')}"

    assert option(services["worker"], "--address") == address
    assert services["builder"]["environment"]["RAY_ADDRESS"] == address
    assert services["worker"]["depends_on"]["head"] == {"condition": "service_healthy"}
    assert services["builder"]["depends_on"]["head"] == {"condition": "service_healthy"}
    assert services["head"]["healthcheck"]["test"][-1].endswith(address.removeprefix("head"))


def test_every_node_wants_a_token_and_there_is_no_default_one(compose: dict) -> None:
    for service in compose["services"].values():
        assert service["environment"]["RAY_AUTH_MODE"] == "token"
        assert service["environment"]["RAY_AUTH_TOKEN"].startswith("${RAY_AUTH_TOKEN:?")


def test_nothing_is_published_or_privileged(compose: dict) -> None:
    for service in compose["services"].values():
        assert not {"ports", "privileged", "network_mode", "cap_add", "pid"} & set(service)


def test_output_and_weights_are_shared_volumes_and_metadata_is_read_only(compose: dict) -> None:
    for service in compose["services"].values():
        sources = {target: (source, mode) for source, target, mode in map(_volume, service["volumes"])}
        assert set(sources) == {"/data", "/runs", "/cache"}
        assert sources["/data"][1] == "ro"
        assert {sources["/runs"][0], sources["/cache"][0]} <= set(compose["volumes"])


def test_gpu_overlay_changes_only_the_worker(compose: dict) -> None:
    overlay = yaml.safe_load((DOCKER / "compose.gpu.yaml").read_text())

    assert set(overlay["services"]) == {"worker"} <= set(compose["services"])
    devices = overlay["services"]["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices[0]["capabilities"] == ["gpu"]


def test_every_variable_is_explained_in_the_readme() -> None:
    readme = (DOCKER / "README.md").read_text()

    for name in set(re.findall(r"\$\{(\w+)", (DOCKER / "compose.yaml").read_text())):
        assert f"`{name}`" in readme, name


def _volume(text: str) -> tuple[str, str, str]:
    source, target, mode = re.fullmatch(r"(\$\{[^}]*\}|[^:]+):([^:]+)(?::(\w+))?", text).groups()  # type: ignore[union-attr]
    return source, target, mode or "rw"


# --- Dockerfile


def test_image_runs_without_root(dockerfile: list[tuple[str, str]]) -> None:
    users = [rest for word, rest in dockerfile if word == "USER"]

    assert users[-1] == "1000:1000"


def test_image_copies_only_files_that_exist_and_are_not_ignored(dockerfile: list[tuple[str, str]]) -> None:
    ignored = (DOCKER / "Dockerfile.dockerignore").read_text().split()
    copied = [
        source for word, rest in dockerfile if word == "COPY" and "--from" not in rest for source in rest.split()[:-1]
    ]

    assert len(copied) > 5
    for source in copied:
        assert (ROOT / source).exists(), source
        assert any(Path(source).match(rule[1:]) for rule in ignored if rule.startswith("!")), source


def test_image_installs_with_the_makefiles_uv(dockerfile: list[tuple[str, str]]) -> None:
    makefile = (ROOT / "Makefile").read_text()
    version = re.search(r"^UV_VERSION := (\S+)", makefile, re.MULTILINE)[1]  # type: ignore[index]

    assert any(f"uv=={version}" in rest for _, rest in dockerfile)


# --- install.sh and join.sh


def run_with_fakes(tmp_path: Path, script: str, *arguments: str, fakes: tuple[str, ...]) -> list[str]:
    """Run a script with commands that only note how they were called. Returns the notes."""
    log = tmp_path / "calls"
    for name in fakes:
        fake = tmp_path / name
        fake.write_text(
            f'#!/bin/sh\necho "{name} $*" >>"{log}"\n'
            f'for last; do :; done\n[ ! -f "$last" ] || cp "$last" "{tmp_path}/given"\n'
        )
        fake.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "RAY_ADDRESS": "head:6379"}
    subprocess.run([DOCKER / script, *arguments], check=True, env=environment, capture_output=True)
    return log.read_text().splitlines()


def test_gpu_installs_exactly_the_lock(tmp_path: Path) -> None:
    calls = run_with_fakes(tmp_path, "install.sh", "gpu", str(LOCK), fakes=("uv",))

    assert calls == [f"uv pip install --no-deps --require-hashes -r {LOCK}"]


def test_cpu_installs_the_lock_without_cuda_and_torch_in_the_locked_versions(tmp_path: Path) -> None:
    locked = re.findall(r"^([\w.-]+==[^\s;\\]+)", LOCK.read_text(), re.MULTILINE)

    calls = run_with_fakes(tmp_path, "install.sh", "cpu", str(LOCK), fakes=("uv",))

    given = re.findall(r"^([\w.-]+==[^\s;\\]+)", (tmp_path / "given").read_text(), re.MULTILINE)
    left_out = set(locked) - set(given)
    torch = {package for package in locked if package.startswith(("torch==", "torchvision=="))}
    assert set(given) < set(locked)
    assert torch < left_out
    assert all(package.startswith(("torch", "triton", "nvidia-", "cuda-")) for package in left_out)
    assert not any(package.startswith(("nvidia-", "cuda-")) for package in given)
    assert calls[1].startswith("uv pip install --no-deps --torch-backend cpu ")
    assert set(calls[1].split()[-2:]) == torch


def test_other_variants_are_refused(tmp_path: Path) -> None:
    done = subprocess.run([DOCKER / "install.sh", "tpu", LOCK], capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert done.stderr == "VARIANT must be cpu or gpu, not 'tpu'\n"


def test_builder_joins_with_nothing_to_offer_before_it_drives(tmp_path: Path) -> None:
    calls = run_with_fakes(tmp_path, "join.sh", "l2i", "build", "--out", "/runs/a b", fakes=("ray", "l2i"))

    assert calls[0].startswith("ray start --address=head:6379 --num-cpus=0 --num-gpus=0 ")
    assert calls[1:] == ["l2i build --out /runs/a b"]
