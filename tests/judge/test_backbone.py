"""Backbones of the judges: loaded from safetensors, from a pickled state dict, or by name, and nothing else."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from l2i_builder.errors import ConfigError, WeightsError
from l2i_builder.judge.backbone import folded, load_state, make_backbone
from l2i_builder.weights.registry import REGISTRY, cached, file_sha256

SMALL = "test_efficientnet"  # timm's smallest


@pytest.fixture(scope="module")
def model() -> Any:
    import timm
    import torch

    torch.manual_seed(0)
    return timm.create_model(SMALL, pretrained=False, num_classes=7).eval()


@pytest.fixture(scope="module")
def image() -> Any:
    import torch

    return torch.rand(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def safetensors(model: Any, tmp_path: Path) -> Path:
    from safetensors.torch import save_file

    save_file(model.state_dict(), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def features(model: Any, image: Any) -> Any:
    import torch

    with torch.inference_mode():
        return model.forward_head(model.forward_features(image), pre_logits=True)


class TestLoading:
    def test_features_are_the_models_before_its_classifier(self, model: Any, image: Any, safetensors: Path) -> None:
        import torch

        backbone = make_backbone(SMALL, weights=str(safetensors))
        found = backbone.module(image)
        assert found.shape == (2, backbone.dim)
        torch.testing.assert_close(found, features(model, image))
        assert not any(parameter.requires_grad for parameter in backbone.module.parameters())

    def test_facts_of_preprocessing_are_timms(self, safetensors: Path) -> None:
        backbone = make_backbone(SMALL, weights=str(safetensors))
        assert (backbone.side, backbone.interpolation, backbone.crop) == (160, "bicubic", 0.95)
        assert backbone.mean == (0.485, 0.456, 0.406)
        assert backbone.digest == file_sha256(safetensors)

    def test_other_names_in_the_same_order_fit(self, model: Any, image: Any, tmp_path: Path) -> None:
        import torch

        renamed = {
            f"_{key}" if key.startswith("classifier") else f"other.{key}": value
            for key, value in model.state_dict().items()
        }
        renamed = {key.replace("_classifier", "_fc"): value for key, value in renamed.items()}
        torch.save(renamed, tmp_path / "other.pth")
        backbone = make_backbone(SMALL, weights=str(tmp_path / "other.pth"))
        torch.testing.assert_close(backbone.module(image), features(model, image))

    def test_the_published_lite0_is_read(self) -> None:
        if not cached("efficientnet_lite0"):
            pytest.skip(
                "efficientnet_lite0 is not in the weights cache; runs after `l2i weights pull efficientnet_lite0`"
            )
        backbone = make_backbone("tf_efficientnet_lite0")
        assert (backbone.dim, backbone.side, backbone.mean, backbone.std) == (1280, 224, (0.5,) * 3, (0.5,) * 3)
        assert backbone.digest == REGISTRY["efficientnet_lite0"].sha256


class TestFolding:
    @staticmethod
    def norms(module: Any) -> int:
        import torch

        return sum(isinstance(layer, torch.nn.BatchNorm2d) for layer in module.modules())

    def test_norms_go_into_the_convolutions_before_them(self, image: Any) -> None:
        import timm
        import torch

        torch.manual_seed(0)
        module = timm.create_model(SMALL, pretrained=False, num_classes=0)
        with torch.no_grad():
            module.train()(image)  # the norms' means and variances are those of something
        module.eval()
        faster = folded(module, (3, 160, 160))
        assert self.norms(module) > 0
        assert self.norms(faster) == 0
        with torch.inference_mode():
            torch.testing.assert_close(faster(image), module(image), rtol=1e-4, atol=1e-4)

    def test_a_network_that_runs_in_another_order_than_it_is_written_in_stays_as_it_is(self) -> None:
        import torch

        class Crossed(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.convolution = torch.nn.Conv2d(3, 3, 1)
                self.norm = torch.nn.BatchNorm2d(3)

            def forward(self, x: Any) -> Any:
                return self.convolution(self.norm(x).square())

        torch.manual_seed(0)
        module = Crossed().eval()
        module.norm.running_var.fill_(4.0)
        assert folded(module, (3, 8, 8)) is module


class TestRefusals:
    def test_a_model_timm_lacks(self) -> None:
        with pytest.raises(WeightsError, match="timm has no model"):
            make_backbone("efficientnet_z9")

    def test_a_model_without_known_weights(self) -> None:
        with pytest.raises(WeightsError, match="no weights are known for resnet18"):
            make_backbone("resnet18")

    def test_weights_of_another_model(self, tmp_path: Path) -> None:
        import torch

        torch.save({"a": torch.zeros(3)}, tmp_path / "other.pth")
        with pytest.raises(WeightsError, match="does not fit the model"):
            make_backbone(SMALL, weights=str(tmp_path / "other.pth"))

    def test_a_pinned_digest_is_checked(self, safetensors: Path) -> None:
        with pytest.raises(WeightsError, match="SHA-256"):
            make_backbone(SMALL, weights=str(safetensors), sha256="0" * 64)

    def test_a_device_that_is_not_there(self, safetensors: Path) -> None:
        for device in ("cuda:63", "toaster"):
            with pytest.raises(ConfigError, match="no device"):
                make_backbone(SMALL, device=device, weights=str(safetensors))


class TestStates:
    def test_code_in_a_pickle_is_not_run(self, tmp_path: Path) -> None:
        class Evil:
            def __reduce__(self) -> tuple[Any, ...]:
                return (Path.touch, (tmp_path / "ran",))

        (tmp_path / "evil.pth").write_bytes(pickle.dumps({"weight": Evil()}, protocol=2))
        with pytest.raises(WeightsError, match="not a plain checkpoint"):
            load_state(tmp_path / "evil.pth")
        assert not (tmp_path / "ran").exists()

    def test_more_than_tensors_is_refused(self, tmp_path: Path) -> None:
        import torch

        torch.save({"weight": torch.zeros(1), "epoch": 3}, tmp_path / "run.pth")
        with pytest.raises(WeightsError, match="names and tensors"):
            load_state(tmp_path / "run.pth")

    @pytest.mark.parametrize("name", ["cut.safetensors", "cut.pth"])
    def test_a_truncated_file_is_told(self, name: str, model: Any, safetensors: Path, tmp_path: Path) -> None:
        import torch

        torch.save(model.state_dict(), tmp_path / "whole.pth")
        whole = safetensors if name.endswith("safetensors") else tmp_path / "whole.pth"
        (tmp_path / name).write_bytes(whole.read_bytes()[:-1000])
        with pytest.raises(WeightsError):
            load_state(tmp_path / name)
