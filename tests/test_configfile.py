import pytest

from l2i_builder.config import Config
from l2i_builder.configfile import changed_keys, known_keys, load_config
from l2i_builder.errors import ConfigError


def test_no_file_gives_the_defaults():
    assert load_config() == Config()


def test_overrides_are_dotted_and_typed(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("image: {size: 256}\nsegment:\n  backend: u2netp\n")
    config = load_config(file, ["inpaint.backend=lama", "image.fill=[1, 2, 3]"], out="s3://bucket/run", metadata=None)
    assert (config.image.size, config.image.fill, config.segment.backend) == (256, (1, 2, 3), "u2netp")
    assert (config.inpaint.backend, config.out, config.metadata) == ("lama", "s3://bucket/run", "")


@pytest.mark.parametrize(
    ("override", "suggestion"),
    [
        ("segment.backnd=u2net", "segment.backend"),
        ("inpain.backend=lama", "inpaint"),
        ("fetch.min_aesthetic=5", "ingest.filter.min_aesthetic"),
        ("judge.mask.treshold=0.5", "judge.mask.threshold"),
    ],
)
def test_a_typo_names_the_nearest_key(override, suggestion):
    with pytest.raises(ConfigError, match=f"no such key.*Did you mean {suggestion}"):
        load_config(None, [override])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("segment.backend=unet", "'u2net'"),
        ("image.size=500", "multiple of 8"),
        ("ingest.audit_rate=2", "less than or equal to 1"),
        ("image", "section.key=value"),
        ("seed.x.y=1", "seed"),
        ("image.fill=[1", "not valid YAML"),
    ],
)
def test_a_bad_value_says_what_is_allowed(override, words):
    with pytest.raises(ConfigError, match=words):
        load_config(None, [override])


def test_words_that_older_yaml_takes_for_booleans_are_words(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("ingest: {filter: {languages: [no, en]}}\n")
    assert load_config(file).ingest.filter.languages == ["no", "en"]
    config = load_config(None, ["ingest.filter.languages=[no]", "fetch.dedup=no", "shards.features=false"])
    assert config.ingest.filter.languages == ["no"]
    assert (config.fetch.dedup, config.shards.features) == (False, False)


def test_an_unreadable_file_is_a_sentence(tmp_path):
    with pytest.raises(ConfigError, match="Cannot read"):
        load_config(tmp_path / "absent.yaml")
    bad = tmp_path / "bad.yaml"
    bad.write_text("a: [")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(bad)
    bad.write_text("- 1")
    with pytest.raises(ConfigError, match="keys and values"):
        load_config(bad)


def test_every_key_says_what_it_means():
    undocumented = []

    def walk(model, prefix=""):
        for name, field in model.model_fields.items():
            if hasattr(field.annotation, "model_fields"):
                walk(field.annotation, f"{prefix}{name}.")
            elif not field.description:
                undocumented.append(prefix + name)

    walk(Config)
    assert undocumented == []
    assert "judge.mask.threshold" in set(known_keys())


def test_changed_keys_are_what_a_reader_needs_to_know():
    config = load_config(None, ["image.size=256", "segment.backend=u2netp"])
    assert dict(changed_keys(config)) == {"image.size": 256, "segment.backend": "u2netp"}
