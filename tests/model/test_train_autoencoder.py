import os
import socket
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from toy_training import quiet, tiny_config, toy_shards

from l2i_builder.errors import ConfigError, WeightsError
from model.autoencoder import CaT2IAutoencoder
from model.config import load_model_config
from model.data import LayerStream, Loader, Place, validation_batches
from model.draw import Draw
from model.pixels import Batch
from model.trackers import read_metrics
from model.train_autoencoder import AutoencoderTask, latent_statistics, make_autoencoder, train_autoencoder
from model.training import make_accelerator


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> str:
    return toy_shards(tmp_path_factory.mktemp("toy"))


@pytest.fixture(autouse=True)
def _fresh_accelerate():
    yield
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def checkpoint(out: Path, step: int) -> dict:
    return torch.load(out / "checkpoints" / "autoencoder" / f"{step:08d}.pt", weights_only=True)


def same(a, b) -> bool:
    """Whether two nested states are equal, tensors bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.slow
def test_resumed_it_equals_one_that_never_stopped_discriminators_and_all(run, tmp_path, workers):
    for out, steps in (("whole", (5,)), ("parts", (3, 5))):
        for until in steps:
            config = tiny_config(run, tmp_path / out, data={"workers": workers}, train_autoencoder={"steps": until})
            train_autoencoder(config, quiet())
    whole, parts = (checkpoint(tmp_path / out, 5) for out in ("whole", "parts"))
    assert set(whole["models"]) == set(whole["optimisers"]) == {"autoencoder", "discriminators"}
    assert whole["optimisers"]["discriminators"]["state"]  # they have begun
    assert same(whole, parts)
    a, b = (CaT2IAutoencoder.from_pretrained(tmp_path / out / "autoencoder") for out in ("whole", "parts"))
    assert same(a.state_dict(), b.state_dict())
    assert a.config.latents_std == b.config.latents_std


def test_it_learns_and_saves_what_it_learned(run, tmp_path):
    config = tiny_config(
        run,
        tmp_path,
        losses={"adversarial": 0.0, "weighting": "area"},
        train_autoencoder={"steps": 60, "batch": 8, "learning_rate": 5e-3, "validate_every": 30},
    )
    folder = train_autoencoder(config, quiet())
    figures = [line["loss"] for line in read_metrics(tmp_path / "logs" / "autoencoder") if "loss" in line]
    assert sum(figures[-5:]) < 0.7 * sum(figures[:5])
    model = CaT2IAutoencoder.from_pretrained(folder).eval()
    batch = validation_batches(config.data, 4, 4)[0]
    latents = model.normalise(model.encode(batch.layers()).mode())
    assert 0.3 < latents.std() < 3
    assert (tmp_path / "logs" / "autoencoder" / "reconstruction-00000060.png").is_file()


def test_latents_have_mean_zero_and_deviation_one_once_normalised(run, tmp_path):
    config = tiny_config(run, tmp_path)
    model = make_autoencoder(config.autoencoder).eval()
    model.set_statistics(*latent_statistics(model, config, torch.device("cpu")))
    loader = Loader(config.data, Place(batch=48), 0)
    posterior = model.encode(next(iter(loader)).layers())
    with torch.no_grad():
        latents = model.normalise(posterior.sample(torch.Generator().manual_seed(0)))
    assert latents.mean(dim=(0, 2, 3)).abs().max() < 0.1
    assert (latents.std(dim=(0, 2, 3)) - 1).abs().max() < 0.1


def _gradients(config, batches: list[Batch], rank: int, ranks: int) -> dict[str, torch.Tensor]:
    """One backward pass through the task, as the trainer does it, over this rank's batch."""
    accelerator = make_accelerator(config.train_autoencoder)
    torch.manual_seed(0)
    task = AutoencoderTask(config)
    task.prepare(accelerator, {name: accelerator.prepare(model) for name, model in task.models.items()})
    batch = batches[rank]
    for _, loss, _ in task.losses(batch, Draw(0, 5, 0, Place(rank, ranks, len(batch)), "cpu"), step=5):
        accelerator.backward(loss)
    return {
        f"{name} {key}": parameter.grad
        for name, model in task.models.items()
        for key, parameter in model.named_parameters()
    }


def _join(rank: int, port: int) -> None:
    """Make this process one of two, on loopback."""
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
    }


def _rank(rank: int, config, batches: list[Batch], port: int, out: str) -> None:
    _join(rank, port)
    torch.save(_gradients(config, batches, rank, 2), f"{out}/{rank}.pt")
    torch.distributed.destroy_process_group()


def _train_rank(rank: int, config, port: int, out: str) -> None:
    _join(rank, port)
    keys: list[str] = []
    collate = LayerStream.collate

    def noted(self, samples, epoch):
        keys.extend(key for key, _, _ in samples)
        return collate(self, samples, epoch)

    LayerStream.collate = noted
    train_autoencoder(config, quiet())
    torch.save(keys, f"{out}/keys-{rank}.pt")
    torch.distributed.destroy_process_group()


def start_two(function, *given) -> None:
    """Run ``function(rank, *given)`` in two processes; an error in one is raised here.

    Forked off a server that has only imported: a fork of this process would inherit the locks of torch's threads
    without the threads, and may wait for ever.
    """
    torch.multiprocessing.get_context("forkserver").set_forkserver_preload(["model.train_autoencoder"])
    torch.multiprocessing.start_processes(function, given, nprocs=2, start_method="forkserver")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_two_ranks_have_the_gradients_of_one_process(run, tmp_path):
    """Through DDP's hooks, gloo: encoder, heads, adaptive weights off (they are ratios of each rank's own batch)."""
    config = tiny_config(
        run, tmp_path, losses={"adversarial": 0.0, "weighting": "area"}, autoencoder={"head_norm": "group"}
    )
    whole = next(iter(Loader(config.data, Place(batch=8), 0)))
    halves = [Batch(whole.keys[part], whole.captions[part], whole.pixels[part]) for part in (slice(0, 4), slice(4, 8))]
    start_two(_rank, config, halves, _free_port(), str(tmp_path))
    one = _gradients(config, [whole], 0, 1)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert same(first, second)
    for name, gradient in one.items():
        torch.testing.assert_close(first[name], gradient, rtol=1e-4, atol=1e-6, msg=name)
    assert max(float(gradient.abs().max()) for gradient in one.values()) > 1e-3


@pytest.mark.slow
def test_two_ranks_train_the_same_number_of_steps_on_uneven_shards(run, tmp_path):
    """Two epochs of shards with 20, 26 and 14 samples; a rank with fewer batches would leave the other waiting."""
    batch, steps = 4, 14
    config = tiny_config(
        run,
        tmp_path,
        data={"validation": f"{run}/shards/00002.tar"},
        train_autoencoder={"steps": steps, "batch": batch, "validate_samples": 1},
    )
    start_two(_train_rank, config, _free_port(), str(tmp_path))
    assert checkpoint(tmp_path, steps)["step"] == steps
    keys = [torch.load(tmp_path / f"keys-{rank}.pt", weights_only=True) for rank in (0, 1)]
    trained = [each[1 : 1 + batch * 7] for each in keys]  # the first is validated on; seven batches are an epoch
    assert all(len(set(each)) == batch * 7 for each in trained)
    assert not set(trained[0]) & set(trained[1])


def test_discriminators_begin_when_they_are_told_to(run, tmp_path):
    config = tiny_config(run, tmp_path, losses={"adversarial_start": 3})
    task = AutoencoderTask(config)
    accelerator = make_accelerator(config.train_autoencoder)
    task.prepare(accelerator, task.models)
    batch = next(iter(Loader(config.data, Place(batch=4), 0)))
    names = {
        step: [name for name, _, _ in task.losses(batch, Draw(0, step, 0, Place(batch=4), "cpu"), step)]
        for step in (1, 2)
    }
    assert names == {1: ["autoencoder"], 2: ["autoencoder", "discriminators"]}  # step 2 is the third
    before = [parameter.grad for parameter in task.discriminators.parameters()]
    generator = task.losses(batch, Draw(0, 2, 0, Place(batch=4), "cpu"), 2)
    next(generator)[1].backward()
    assert before == [parameter.grad for parameter in task.discriminators.parameters()] == [None] * len(before)
    _, loss, _ = next(generator)
    generator_gradient = task.model.encoder.conv_in.weight.grad.clone()
    loss.backward()
    assert torch.equal(generator_gradient, task.model.encoder.conv_in.weight.grad)  # each learns from its own loss


def test_no_sup_trains_without_the_image(run, tmp_path):
    folder = train_autoencoder(tiny_config(run, tmp_path, autoencoder={"image_head": False}), quiet())
    assert "image" not in CaT2IAutoencoder.from_pretrained(folder).heads


def test_it_goes_on_from_an_autoencoder_trained_before(run, tmp_path):
    folder = train_autoencoder(tiny_config(run, tmp_path / "first"), quiet())
    resumed = make_autoencoder(tiny_config(run, "", autoencoder={"init": "resume", "source": folder}).autoencoder)
    assert same(resumed.state_dict(), CaT2IAutoencoder.from_pretrained(folder).state_dict())


def test_it_starts_from_an_rgb_autoencoder(run, tmp_path):
    from diffusers import AutoencoderKL

    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    rgb = AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, layers_per_block=1, **blocks)
    rgb.save_pretrained(tmp_path / "vae")
    section = {"init": "rgb", "source": str(tmp_path), "subfolder": "vae"}
    model = make_autoencoder(tiny_config(run, "", autoencoder=section).autoencoder)
    assert torch.equal(model.heads["image"].direct.weight, rgb.decoder.conv_out.weight)
    narrow = section | {"latent_channels": 2}
    with pytest.raises(ConfigError, match=r"choose another autoencoder\.source"):
        make_autoencoder(tiny_config(run, "", autoencoder=narrow).autoencoder)
    with pytest.raises(WeightsError, match="holds no AutoencoderKL"):
        make_autoencoder(tiny_config(run, "", autoencoder=section | {"subfolder": "unet"}).autoencoder)


def test_the_paper_preset_is_stable_diffusions_autoencoder_with_the_papers_heads():
    with torch.device("meta"):
        model = make_autoencoder(load_model_config("paper").autoencoder)
    assert model.downscale == 8
    assert model.latent_channels == 4
    assert list(model.config.block_out_channels) == [128, 256, 512, 512]
    assert isinstance(model.heads["mask"].deep[1], torch.nn.BatchNorm2d)
    assert sum(parameter.numel() for parameter in model.encoder.parameters()) > 34_000_000


def test_sizes_that_do_not_fit_are_refused(run, tmp_path):
    with pytest.raises(ConfigError, match=r"data.size 14 must be a multiple of the autoencoder's 4"):
        AutoencoderTask(tiny_config(run, tmp_path, data={"size": 14}))


def test_baselines_have_no_autoencoder_to_train(run, tmp_path):
    with pytest.raises(ConfigError, match="takes its source as it is"):
        train_autoencoder(tiny_config(run, tmp_path, autoencoder={"kind": "image"}), quiet())
