"""Agreement of image and text: cosines of a CLIP's embeddings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from l2i_builder.errors import WeightsError
from model.evaluation.agreement import ClipScorer, cosine

TEXTS = ["a red dog", "a dog"]


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random CLIP with tokenizer and image processor, as ``transformers`` saves them."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({"[S]": 0, "[E]": 1, "[U]": 2, "a": 3, "dog": 4, "red": 5}, unk_token="[U]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[S] $A [E]", special_tokens=[("[S]", 0), ("[E]", 1)]
    )
    common = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**common, "vocab_size": 6, "max_position_embeddings": 8, "bos_token_id": 0, "eos_token_id": 1}
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={**text, "pad_token_id": 1},
        vision_config={**common, "image_size": 16, "patch_size": 8},
        projection_dim=12,
    )
    folder = tmp_path_factory.mktemp("clips") / "tiny-clip"
    CLIPModel(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="[E]", pad_token="[E]").save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def scorer(clip_folder: Path) -> ClipScorer:
    return ClipScorer(str(clip_folder))


def pictures(n: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (n, 20, 30, 3), dtype=np.uint8))


def test_cosine_by_hand() -> None:
    a, b = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[6.0, 8.0], [0.0, -2.0]])
    assert cosine(a, b).tolist() == pytest.approx([1.0, 0.0])
    assert cosine(a[:1], torch.tensor([[5.0, 0.0]]))[0] == pytest.approx(0.6)


def test_scores_are_the_models_own_similarities(scorer: ClipScorer, clip_folder: Path) -> None:
    from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

    model = CLIPModel.from_pretrained(clip_folder).eval()
    inputs = AutoTokenizer.from_pretrained(clip_folder)(TEXTS, padding=True, return_tensors="pt")
    pixels = CLIPImageProcessor.from_pretrained(clip_folder)(pictures(2), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        logits = model(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], pixel_values=pixels
        ).logits_per_image
        expected = (logits / model.logit_scale.exp()).diagonal()
    assert np.allclose(scorer(pictures(2), TEXTS), expected.numpy(), atol=1e-5)


def test_only_vit_l_14_gives_a_clip_score(scorer: ClipScorer) -> None:
    assert scorer.metric == "cosine (tiny-clip)"


def test_long_texts_are_cut(scorer: ClipScorer) -> None:
    assert np.isfinite(scorer(pictures(1), ["dog " * 50])).all()


def test_a_clip_that_is_not_there_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="clip=none"):
        ClipScorer(str(tmp_path))
