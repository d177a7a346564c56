"""Agreement of image and text: the CLIP score, written out (Hessel et al. 2021, without its factor 2.5).

The paper reports raw cosines of ViT-L/14, about 0.25; so does this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from l2i_builder.errors import WeightsError
from model.messages import said
from model.text import CLIP


class ClipScorer:
    """Images uint8 [N, H, W, 3] and texts -> cosine of their embeddings, float32 [N] in -1..1.

    Only OpenAI's ViT-L/14 at the pinned revision makes a "CLIP score"; another CLIP's cosines carry its name.
    """

    how = "raw cosine"

    def __init__(self, source: str = CLIP[0], device: str = "cpu") -> None:
        """``source``: hub id or folder of a CLIP as ``transformers`` saves them. Raises WeightsError."""
        from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

        where = {"revision": CLIP[1]} if source == CLIP[0] else {}
        try:
            self.model: Any = CLIPModel.from_pretrained(source, use_safetensors=True, **where).eval().to(device)
            self.prepare = CLIPImageProcessor.from_pretrained(source, **where)
            self.tokenizer = AutoTokenizer.from_pretrained(source, **where)
        except (OSError, ValueError, RuntimeError) as error:
            raise WeightsError(
                f"the CLIP {source} cannot be loaded: {said(error)}. It needs the network once; "
                "offline give a folder that holds one, or leave the score out with clip=none"
            ) from error
        original = source == CLIP[0]
        self.name = "CLIP ViT-L/14" if original else Path(source).name
        self.metric = "CLIP score" if original else f"cosine ({self.name})"
        self.device = device

    @torch.no_grad()
    def __call__(self, images: Sequence[np.ndarray], texts: Sequence[str]) -> np.ndarray:
        return cosine(self.embed_images(images), self.embed_texts(texts))

    def embed_images(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """images uint8 [H, W, 3] -> embeddings [N, D], not normalised."""
        pixels = self.prepare(images=list(images), return_tensors="pt")["pixel_values"].to(self.device)
        return self.model.visual_projection(self.model.vision_model(pixel_values=pixels).pooler_output)

    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """texts -> embeddings [N, D], not normalised; longer ones are cut to the model's length."""
        length = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(list(texts), padding=True, truncation=True, max_length=length, return_tensors="pt").to(
            self.device
        )
        pooled = self.model.text_model(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).pooler_output
        return self.model.text_projection(pooled)


def cosine(a: torch.Tensor, b: torch.Tensor) -> np.ndarray:
    """Return the cosine of each pair of rows, [N, D] and [N, D] -> float32 [N]."""
    return functional.cosine_similarity(a.float(), b.float(), dim=1).cpu().numpy()
