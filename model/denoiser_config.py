"""The configuration of the diffusion model: its UNet, its noise schedule and its text encoder."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from l2i_builder.config import Fraction, Positive, Section


class UNet(Section):
    """Defaults are Stable Diffusion 1's UNet; with ``init: scratch`` the paper's CaT2I-AE-SD."""

    channels: list[Positive] = Field([320, 640, 1280, 1280], min_length=1, description="feature channels of each level")
    layers_per_level: Positive = Field(2, description="residual blocks of a level")
    attention_levels: list[bool] = Field([], description="levels that attend to the text; empty = all but the last")
    heads: Positive = Field(8, description="attention heads")
    norm_groups: Positive = Field(32, description="groups of the group norms; divides every entry of channels")
    init: Literal["scratch", "sd", "resume"] = Field(
        "scratch",
        description="scratch (paper) · sd: from Stable Diffusion's UNet, convolutions widened (SD-AE-UNet ft) · "
        "resume: from a trained UNet of this project, as the 512 model from the 256 one",
    )
    source: str = Field("", description="for sd and resume: a folder or hub id that holds the UNet")
    revision: str = Field("", description="for a hub id: the commit to load")
    subfolder: str = Field("unet", description="where in source the UNet lies")
    conditional: bool = Field(False, description="further input channels carry given layers (beyond the paper)")


class Noise(Section):
    """The diffusion process. Defaults are the paper's: Stable Diffusion's schedule, prediction of the noise."""

    prediction: Literal["epsilon", "v", "flow"] = Field("epsilon", description="what the UNet predicts; paper: epsilon")
    steps: Positive = Field(1000, description="training steps of the schedule")
    beta_start: Annotated[float, Field(gt=0)] = Field(0.00085, description="first noise variance; not for flow")
    beta_end: Annotated[float, Field(gt=0)] = Field(0.012, description="last noise variance; not for flow")
    zero_terminal_snr: bool = Field(False, description="the last step is pure noise; wants prediction v")
    shift: Annotated[float, Field(gt=0)] = Field(1.0, description="flow: pushes steps towards noise for large images")
    caption_dropout: Fraction = Field(0.1, description="share of captions trained as empty, for guidance")


class Text(Section):
    """The text encoder; see ``model.text.make_text_encoder``."""

    encoder: str = Field(
        "clip-vit-l-14",
        description="clip-vit-l-14 (paper) · minilm (offline) · words (tiny, trained from the captions) · a folder",
    )
    length: Positive = Field(77, description="tokens of a caption; longer ones are cut")
    trained: bool = Field(False, description="train the text encoder too; always so for words")
    width: Positive = Field(64, description="words: its dimension")
    layers: Positive = Field(2, description="words: its layers")
    heads: Positive = Field(4, description="words: its attention heads")
