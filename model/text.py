"""Text encoders: captions to the sequence of states the UNet attends to.

All have one interface, ``encode``, and save themselves whole (weights, vocabulary, tokenizer) into one folder.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin  # ModelMixin by name: diffusers looks for it in this module
from diffusers.configuration_utils import register_to_config

from l2i_builder.errors import ConfigError, WeightsError
from l2i_builder.weights import registry
from model.denoiser_config import Text
from model.messages import said

CLIP = ("openai/clip-vit-large-patch14", "32bd64288804d66eefd0ccbe215aa642df71cc41")  # as Stable Diffusion 1 uses it

_WORD = re.compile(r"[^\W_]+")
_START, _END, _UNKNOWN = 0, 1, 2  # of a word vocabulary; the end also pads, as in CLIP


class TextEncoder(ModelMixin, ConfigMixin):
    """Base of the encoders. ``dim``: dimension of a state; ``length``: states of a caption."""

    dim: int
    length: int

    def encode(self, captions: Sequence[str]) -> torch.Tensor:
        """Return states [N, length, dim] of the captions, on the module's device, with gradient where it is trained.

        Captions are padded and cut to ``length`` tokens; "" is the caption of no caption.
        """
        return self(self.tokens(captions).to(self.device))

    def tokens(self, captions: Sequence[str]) -> torch.Tensor:
        """Return token ids int64 [N, length]."""
        raise NotImplementedError


class WordTextEncoder(TextEncoder):
    """A small CLIP text model over whole words: trained from scratch beside the UNet, for captions of few words."""

    @register_to_config
    def __init__(
        self, vocabulary: Sequence[str] = (), length: int = 16, width: int = 64, layers: int = 2, heads: int = 4
    ) -> None:
        from transformers import CLIPTextConfig, CLIPTextModel

        super().__init__()
        self.dim, self.length = width, length
        self._ids = {word: i + 3 for i, word in enumerate(vocabulary)}
        config = CLIPTextConfig(
            vocab_size=len(vocabulary) + 3,
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            max_position_embeddings=length,
            bos_token_id=_START,
            eos_token_id=_END,
            pad_token_id=_END,
        )
        self.model = CLIPTextModel(config)

    def tokens(self, captions: Sequence[str]) -> torch.Tensor:
        rows = []
        for caption in captions:
            ids = [self._ids.get(word, _UNKNOWN) for word in words(caption)][: self.length - 2]
            rows.append([_START, *ids] + [_END] * (self.length - 1 - len(ids)))
        return torch.tensor(rows, dtype=torch.long).reshape(-1, self.length)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """tokens int64 [N, T] -> states [N, T, dim]."""
        return self.model(input_ids=tokens).last_hidden_state


class PretrainedTextEncoder(TextEncoder):
    """A text model of ``transformers`` with its tokenizer: CLIP's, or a BERT such as MiniLM.

    CLIP's states are used as Stable Diffusion uses them, padding included; a BERT's padding is masked and zero.
    """

    @register_to_config
    def __init__(
        self, model_type: str = "clip_text_model", architecture: dict[str, Any] | None = None, length: int = 77
    ) -> None:
        from transformers import BertConfig, BertModel, CLIPTextConfig, CLIPTextModel

        super().__init__()
        self.length = length
        self.model: torch.nn.Module
        if model_type == "bert":
            bert = BertConfig(**(architecture or {}))
            self.model, self.dim = BertModel(bert, add_pooling_layer=False), bert.hidden_size
        else:
            clip = CLIPTextConfig(**(architecture or {}))
            self.model, self.dim = CLIPTextModel(clip), clip.hidden_size
        self.tokenizer: Any = None

    def tokens(self, captions: Sequence[str]) -> torch.Tensor:
        if self.tokenizer is None:
            raise WeightsError("the text encoder has no tokenizer; load it with from_pretrained or make_text_encoder")
        done = self.tokenizer(
            list(captions), padding="max_length", truncation=True, max_length=self.length, return_tensors="pt"
        )
        return done["input_ids"]

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """tokens int64 [N, T] -> states [N, T, dim]."""
        if self.config.model_type != "bert":
            return self.model(input_ids=tokens).last_hidden_state
        mask = (tokens != self.model.config.pad_token_id).long()  # type: ignore[union-attr]
        states = self.model(input_ids=tokens, attention_mask=mask).last_hidden_state
        return states * mask[:, :, None].to(states)

    def save_pretrained(self, save_directory: str | os.PathLike[str], **options: Any) -> None:
        """Write weights, configuration and tokenizer into a folder."""
        super().save_pretrained(save_directory, **options)
        self.tokenizer.save_pretrained(Path(save_directory) / "tokenizer")

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], **options: Any) -> PretrainedTextEncoder:
        """Load what ``save_pretrained`` wrote."""
        from transformers import AutoTokenizer

        encoder = super().from_pretrained(folder, **options)
        where = Path(folder) / (options.get("subfolder") or "") / "tokenizer"
        encoder.tokenizer = AutoTokenizer.from_pretrained(where)
        return encoder


def words(caption: str) -> list[str]:
    """Return a caption's words, lower case, without punctuation."""
    return _WORD.findall(caption.lower())


def vocabulary(captions: Iterable[str], limit: int = 4000) -> list[str]:
    """Return the most frequent words of the captions, at most ``limit``, ties in alphabetical order."""
    counts = Counter(word for caption in captions for word in words(caption))
    return sorted(counts, key=lambda word: (-counts[word], word))[:limit]


def make_text_encoder(name: str, captions: Iterable[str] = (), config: Text | None = None) -> TextEncoder:
    """Return a text encoder.

    ``name``: "clip-vit-l-14" (production, from the hub at a pinned revision), "minilm" (from the weights registry),
    "words" (from scratch, its vocabulary that of ``captions``), or a folder that an encoder or ``transformers`` saved.
    Only "words" is made for training; the others come frozen. Raises WeightsError when it cannot be had, ConfigError
    when the name is unknown or "words" gets no captions.
    """
    config = config or Text()
    if name == "words":
        return _from_words(vocabulary(captions), config)
    if name == "minilm":
        encoder: TextEncoder = _minilm(min(config.length, 512))
    elif name == "clip-vit-l-14":
        encoder = _transformers(CLIP[0], CLIP[1], config.length)
    elif (folder := Path(name).expanduser()).is_dir():
        encoder = _from_folder(folder, config.length)
    else:
        raise ConfigError(
            f"no text encoder is called {name!r}: choose clip-vit-l-14, minilm or words, or give its folder"
        )
    encoder.requires_grad_(config.trained)
    return encoder.train(config.trained)


def _from_words(known: list[str], config: Text) -> WordTextEncoder:
    if not known:
        raise ConfigError("the text encoder 'words' takes its vocabulary from captions, and there are none")
    return WordTextEncoder(known, config.length, config.width, config.layers, config.heads)


def _from_folder(folder: Path, length: int) -> TextEncoder:
    """Load an encoder of this module, or a text model with tokenizer as ``transformers`` saves them."""
    kinds = {kind.__name__: kind for kind in (WordTextEncoder, PretrainedTextEncoder)}
    try:
        saved = TextEncoder.load_config(folder).get("_class_name")
    except (OSError, ValueError) as error:
        raise WeightsError(f"{folder} holds no text encoder: {said(error)}") from error
    return kinds[saved].from_pretrained(folder) if saved in kinds else _transformers(str(folder), "", length)


def _transformers(source: str, revision: str, length: int) -> PretrainedTextEncoder:
    """Take over a text model of ``transformers``: a CLIP (its text half) or a BERT, from the hub or a folder."""
    from transformers import AutoConfig, AutoTokenizer, BertModel, CLIPTextModel

    where = {"revision": revision} if revision else {}
    try:
        found = AutoConfig.from_pretrained(source, **where)
        bert = found.model_type == "bert"
        if bert:
            model: Any = BertModel.from_pretrained(source, add_pooling_layer=False, use_safetensors=True, **where)
        else:
            model = CLIPTextModel.from_pretrained(source, use_safetensors=True, **where)
        tokenizer = AutoTokenizer.from_pretrained(source, **where)
    except (OSError, ValueError, RuntimeError) as error:
        raise WeightsError(
            f"the text encoder {source} cannot be loaded: {said(error)}. It needs the network "
            "once; offline choose text.encoder=minilm or words, or a folder that holds it"
        ) from error
    config = model.config.to_dict()
    kind = "bert" if bert else "clip_text_model"
    encoder = PretrainedTextEncoder(kind, config, min(length, config["max_position_embeddings"]))
    encoder.model.load_state_dict(model.state_dict())
    encoder.tokenizer = tokenizer
    return encoder


def _minilm(length: int) -> PretrainedTextEncoder:
    from safetensors.torch import load_file
    from transformers import PreTrainedTokenizerFast

    config = {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6, "num_attention_heads": 12}
    encoder = PretrainedTextEncoder("bert", config, length)  # the other values are BERT's defaults
    weights = load_file(registry.pull("minilm"))
    _, unknown = encoder.model.load_state_dict(weights, strict=False)
    missing = set(encoder.model.state_dict()) - set(weights)
    if missing or any(not name.startswith(("pooler.", "embeddings.position_ids")) for name in unknown):
        raise WeightsError(f"the weights minilm do not fit: missing {sorted(missing)}, unknown {unknown}")
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")}
    encoder.tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(registry.pull("minilm-tokenizer")), model_max_length=512, **special
    )
    return encoder
