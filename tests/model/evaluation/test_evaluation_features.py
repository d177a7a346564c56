"""Feature extractors: which one makes an FID."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_judges import BACKBONE, tiny_backbone

from l2i_builder.errors import ConfigError, WeightsError
from model.evaluation import features as module
from model.evaluation.features import BackboneExtractor, InceptionExtractor, features, inception, make_extractor


def pictures(n: int, side: int = 40) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def substitute(tmp_path_factory: pytest.TempPathFactory) -> BackboneExtractor:
    return BackboneExtractor(BACKBONE, weights=str(tiny_backbone(tmp_path_factory.mktemp("backbone"))))


def test_a_substitute_never_calls_its_distance_fid(substitute: BackboneExtractor) -> None:
    assert substitute.metric == f"FD ({BACKBONE})"
    assert "FID" not in substitute.metric


def test_features_of_an_image_depend_on_it_alone(substitute: BackboneExtractor) -> None:
    images = pictures(5)
    together = features(substitute, images, batch=3)
    alone = np.concatenate([substitute(image[None]) for image in images])
    assert together.shape == (5, substitute.backbone.dim)
    assert np.allclose(together, alone, atol=1e-5)


def test_images_of_several_sizes_are_fine(substitute: BackboneExtractor) -> None:
    images = [*pictures(2, 40), *pictures(2, 24)]
    assert len(features(substitute, images)) == 4


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """Weights of FID's Inception, random: the real ones need the network."""
    from cleanfid import inception_pytorch

    taken: dict[str, torch.Tensor] = {}

    class Stop(Exception):
        pass

    def catch(self: torch.nn.Module, *_: object, **__: object) -> None:
        taken.update(self.state_dict())
        raise Stop

    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inception_pytorch, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(torch.nn.Module, "load_state_dict", catch)
        with pytest.raises(Stop):
            inception_pytorch.fid_inception_v3()
    return taken


@pytest.mark.slow
def test_inceptions_features_are_clean_fids(
    state: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against clean-fid's own path from pixels to features, with the same network."""
    from cleanfid import fid
    from cleanfid.resize import build_resizer

    file = tmp_path / "inception.pth"
    torch.save(state, file)
    monkeypatch.setattr(module.registry, "pull", lambda name: file)
    extractor = InceptionExtractor()
    assert extractor.metric == "FID"
    images = pictures(2)
    found = extractor(images)
    network = inception(state)
    for number, image in enumerate(images):
        np.save(file.with_name(f"{number}.npy"), image)
    theirs = fid.get_files_features(
        [str(file.with_name(f"{number}.npy")) for number in range(2)],
        model=lambda x: network(x / 255)[0][:, :, 0, 0],
        num_workers=0,
        device=torch.device("cpu"),
        mode="clean",
        custom_fn_resize=build_resizer("clean"),
        verbose=False,
    )
    assert found.shape == (2, 2048)
    assert np.allclose(found, theirs, atol=1e-5)


def test_weights_that_do_not_fit_are_refused() -> None:
    with pytest.raises(WeightsError, match="do not fit FID's Inception"):
        inception({"a": torch.zeros(1)})


def test_without_inception_a_substitute_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise WeightsError(f"{name} cannot be fetched")

    monkeypatch.setattr(module.registry, "pull", refuse)
    with pytest.raises(WeightsError, match="choose extractor=tf_efficientnet_lite0: not an FID"):
        make_extractor("inception")
    with pytest.raises(ConfigError, match="no extractor is called 'incepton'"):
        make_extractor("incepton")
