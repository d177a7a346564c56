"""Text encoders: captions to states, saved whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from l2i_builder.errors import ConfigError, WeightsError
from l2i_builder.weights import registry
from model.denoiser_config import Text
from model.text import PretrainedTextEncoder, WordTextEncoder, make_text_encoder, vocabulary, words

CAPTIONS = ["A red dog, on the beach!", "a dog", ""]
SMALL = Text(length=6, width=16, layers=1, heads=2)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP with its tokenizer, as ``transformers`` saves them."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

    ids = {"<|startoftext|>": 0, "<|endoftext|>": 1, "[UNK]": 2, "a": 3, "red": 4, "dog": 5, "beach": 6}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>", special_tokens=[("<|startoftext|>", 0), ("<|endoftext|>", 1)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|startoftext|>", eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=7,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=8,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    folder = tmp_path_factory.mktemp("clip")
    CLIPTextModel(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def test_words_are_lower_case_and_without_punctuation() -> None:
    assert words("A red_dog, on the BEACH! 2") == ["a", "red", "dog", "on", "the", "beach", "2"]


def test_a_vocabulary_is_ordered_by_frequency_then_alphabet() -> None:
    assert vocabulary(["b a b", "c a b"]) == ["b", "a", "c"]
    assert vocabulary(["b a b", "c a b"], limit=2) == ["b", "a"]


def test_a_word_encoder_gives_one_sequence_of_states_for_each_caption() -> None:
    encoder = make_text_encoder("words", CAPTIONS, SMALL)
    states = encoder.encode(CAPTIONS)
    assert states.shape == (3, 6, 16)
    assert encoder.dim == 16


def test_a_word_encoder_cuts_pads_and_knows_unknown_words() -> None:
    encoder = WordTextEncoder(["dog", "red"], length=5, width=16, layers=1, heads=2)
    assert encoder.tokens(["red dog", "cat", "", "dog dog dog dog"]).tolist() == [
        [0, 4, 3, 1, 1],
        [0, 2, 1, 1, 1],
        [0, 1, 1, 1, 1],
        [0, 3, 3, 3, 1],
    ]


def test_a_word_encoder_is_trained_and_pretrained_ones_are_frozen(clip_folder: Path) -> None:
    trained = make_text_encoder("words", CAPTIONS, SMALL)
    trained.encode(CAPTIONS).sum().backward()
    assert all(p.grad is not None for p in trained.parameters())
    frozen = make_text_encoder(str(clip_folder), config=SMALL)
    assert not frozen.encode(CAPTIONS).requires_grad
    assert (
        make_text_encoder(str(clip_folder), config=SMALL.model_copy(update={"trained": True}))
        .encode(CAPTIONS)
        .requires_grad
    )


def test_a_word_encoder_comes_back_from_its_folder(tmp_path: Path) -> None:
    encoder = make_text_encoder("words", CAPTIONS, SMALL).eval()
    encoder.save_pretrained(tmp_path)
    again = make_text_encoder(str(tmp_path)).eval()
    assert isinstance(again, WordTextEncoder)
    assert torch.equal(again.encode(CAPTIONS), encoder.encode(CAPTIONS))


def test_a_clip_encodes_as_its_own_library_does(clip_folder: Path) -> None:
    from transformers import AutoTokenizer, CLIPTextModel

    encoder = make_text_encoder(str(clip_folder), config=Text(length=8))
    tokens = AutoTokenizer.from_pretrained(clip_folder)(
        CAPTIONS, padding="max_length", truncation=True, max_length=8, return_tensors="pt"
    )
    expected = CLIPTextModel.from_pretrained(clip_folder)(input_ids=tokens["input_ids"]).last_hidden_state
    assert torch.equal(encoder.encode(CAPTIONS), expected)


def test_a_clip_saved_here_needs_its_source_no_more(clip_folder: Path, tmp_path: Path) -> None:
    encoder = make_text_encoder(str(clip_folder), config=Text(length=8))
    encoder.save_pretrained(tmp_path)
    again = PretrainedTextEncoder.from_pretrained(tmp_path)
    assert torch.equal(again.eval().encode(CAPTIONS), encoder.encode(CAPTIONS))
    assert torch.equal(make_text_encoder(str(tmp_path)).encode(CAPTIONS), encoder.encode(CAPTIONS))


def test_the_text_half_of_a_whole_clip_is_taken(clip_folder: Path, tmp_path: Path) -> None:
    """As OpenAI's ViT-L/14 is published: image and text model in one folder."""
    from transformers import AutoTokenizer, CLIPConfig, CLIPModel, CLIPTextConfig

    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = CLIPTextConfig.from_pretrained(clip_folder).to_dict()
    torch.manual_seed(1)
    whole = CLIPModel(CLIPConfig(text_config=text, vision_config={**vision, "image_size": 16, "patch_size": 8})).eval()
    whole.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(clip_folder)
    tokenizer.save_pretrained(tmp_path)
    tokens = tokenizer(CAPTIONS, padding="max_length", truncation=True, max_length=8, return_tensors="pt")
    encoder = make_text_encoder(str(tmp_path), config=Text(length=8))
    with torch.no_grad():
        expected = whole.text_model(input_ids=tokens["input_ids"]).last_hidden_state
    assert torch.allclose(encoder.encode(CAPTIONS), expected, atol=1e-6)


def test_captions_longer_than_the_model_are_cut(clip_folder: Path) -> None:
    encoder = make_text_encoder(str(clip_folder), config=Text(length=77))
    assert encoder.encode(["dog " * 100]).shape == (1, 8, 16)  # it has eight positions


def test_minilm_tells_captions_apart_and_ignores_padding(tmp_path: Path) -> None:
    if not registry.cached("minilm"):
        pytest.skip("the weights minilm are not in the cache; runs after `l2i weights pull minilm minilm-tokenizer`")
    encoder = make_text_encoder("minilm", config=Text(length=12))
    states = encoder.encode(["a dog on a beach", "a puppy by the sea", "quarterly tax report"])
    assert states.shape == (3, 12, 384)
    assert encoder.dim == 384
    mean = torch.nn.functional.normalize(states.sum(1), dim=1)  # padding is zero
    alike, unlike = float(mean[0] @ mean[1]), float(mean[0] @ mean[2])
    assert alike > 0.6 > 0.3 > unlike
    longer = make_text_encoder("minilm", config=Text(length=20)).encode(["a dog on a beach"])
    assert torch.allclose(longer[:, :12], states[:1], atol=1e-5)
    assert not longer[:, 12:].any()
    encoder.save_pretrained(tmp_path)
    assert torch.equal(make_text_encoder(str(tmp_path)).encode(["a dog"]), encoder.encode(["a dog"]))


def test_what_cannot_be_had_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="choose clip-vit-l-14, minilm or words"):
        make_text_encoder("clipp")
    with pytest.raises(ConfigError, match="captions"):
        make_text_encoder("words")
    with pytest.raises(WeightsError, match="holds no text encoder"):
        make_text_encoder(str(tmp_path))
