"""The configuration of a run: every key, its default, and what it means.

One validated YAML plus dotted overrides. Keys marked *how* say how a run is carried out (machines, speed,
politeness); all others say *what* is built, and belong to the identity of an output folder: they cannot
change between two runs into the same folder.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(gt=0)]

MAX_LAYERS = 8  # of a sample

HOW: dict[str, JsonValue] = {"identity": False}  # json_schema_extra of keys that do not change what is built


def how(default: Any, description: str) -> Any:
    """A field that says how the run is carried out, and so is no part of the output's identity."""
    return Field(default, description=description, json_schema_extra=HOW)


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True)

    def inert(self) -> set[str]:
        """Keys that decide nothing as the others stand, and so are no part of the identity: outputs that were begun
        before these keys existed go on."""
        return set()


class MetadataFilter(Section):
    """Rows refused from metadata alone, before anything is fetched. A value the metadata lacks passes,
    except ``punsafe`` (see ``unknown_punsafe``)."""

    min_size: Count = Field(0, description="shorter side in pixels, where the metadata knows it")
    max_aspect: float = Field(0, ge=0, description="longer side / shorter side; 0 = any")
    min_aesthetic: float = Field(0, description="LAION aesthetic score; 0 = any")
    min_similarity: float = Field(0, description="CLIP similarity of image and text; 0 = any")
    max_punsafe: Fraction = Field(0.45, description="LAION's probability of unsafe content")
    unknown_punsafe: Literal["reject", "accept"] = Field("reject", description="rows without a punsafe value")
    max_pwatermark: Fraction = Field(1.0, description="LAION's probability of a watermark; 1 = any")
    languages: list[str] = Field([], description="language codes to keep; empty = any")
    max_caption_chars: Positive = Field(10_000, description="longer captions are bad_caption, as are empty ones")


class Ingest(Section):
    rows_per_shard: Positive = Field(10_000, description="input rows of a shard: one attempt, one atomic commit")
    columns: dict[str, str] = Field(
        {}, description="field -> column, where the aliases do not find it, e.g. {url: link, caption: alt}"
    )
    limit: Count = Field(0, description="only the first so many rows; 0 = all")
    filter: MetadataFilter = MetadataFilter()
    audit_rate: Fraction = Field(0.01, description="share of keys that run through every stage whatever the scores")


class Fetch(Section):
    user_agent: str = how("l2i-builder (+mailto:unset@example.org)", "sent with every request; put your contact here")
    concurrency: Positive = how(128, "requests in flight per fetch actor")
    per_host: Positive = how(8, "requests in flight per host and fetch actor")
    per_host_rate: float = how(0, "requests a second per host and fetch actor; 0 = no limit")
    timeout: Seconds = how(30.0, "seconds for one attempt, from look-up to the last byte")
    connect_timeout: Seconds = how(10.0, "seconds to connect")
    retries: Count = how(2, "further attempts after a transient failure")
    max_retry_after: Seconds = how(20.0, "longest Retry-After that is waited for")
    max_bytes: Positive = Field(30 * 2**20, description="largest body, also after decompression")
    max_redirects: Count = Field(5, description="redirects followed")
    max_url_bytes: Positive = Field(8192, description="longest URL")
    respect_opt_out: bool = Field(True, description="refuse answers that forbid use for machine learning")
    respect_robots_txt: bool = Field(False, description="ask every host's robots.txt first, cached")
    dedup: bool = Field(True, description="refuse a second row with the same key or content in an input shard")
    connect_to: dict[str, str] = how(
        {}, "host -> IP:port, connected to instead of the look-up; the only way to reach a private address"
    )
    use_proxy_env: bool = how(False, "honour HTTP(S)_PROXY")


class Image(Section):
    size: Positive = Field(512, description="side of the square image, in pixels")
    resize: Literal["center_crop", "pad", "stretch"] = Field(
        "center_crop", description="center_crop: shorter side to size, then the centre; pad: longer side, on fill"
    )
    fill: tuple[int, int, int] = Field((255, 255, 255), description="sRGB behind transparent pixels and padding")
    min_size: Count = Field(256, description="smallest shorter side of the source; below it: too_small")
    max_aspect: float = Field(3.0, ge=1, description="longest side / shorter side; above it: bad_aspect")
    max_pixels: Positive = Field(100_000_000, description="more source pixels are refused before decoding")
    animated: Literal["reject", "first_frame"] = Field("reject", description="animated images")
    workers: Count = how(0, "decoder child processes per fetch actor; 0 = one per CPU of the actor")
    decode_timeout: Seconds = how(20.0, "seconds for one image")
    decode_memory_mb: Positive = how(2048, "memory limit of a decoder child")


class Segment(Section):
    backend: Literal["u2net", "u2netp", "isnet", "inspyrenet"] = Field("u2net", description="the segmenter")
    weights: str = Field("", description="name in `l2i weights list` or a local path; empty = the backend's own")
    sha256: str = Field("", description="digest of weights given by path; required for pickled checkpoints")
    resolution: Count = Field(0, description="side the model sees; 0 = the backend's own")
    runtime: Literal["auto", "ncnn", "onnxruntime"] = Field(
        "auto", description="what runs ONNX graphs; auto: ncnn for u2net and u2netp on CPUs, else onnxruntime"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto: bfloat16 on GPUs that have it")
    batch: Positive = how(8, "images a forward pass")
    compile: bool = Field(False, description="inspyrenet through torch.compile: minutes at the start, then faster")

    def inert(self) -> set[str]:
        inert = set() if self.compile and self.backend == "inspyrenet" else {"compile"}
        return inert | ({"runtime"} if self.backend == "inspyrenet" else set())


class Further(Section):
    """Which objects are peeled off the background where ``layers.count`` is above 2 (docs/layers.md)."""

    min_area: Fraction = Field(0.02, description="a further mask that covers less ends the peeling, m > 0.5")
    max_inpainted: Fraction = Field(
        0.5, description="so does one of which a larger share lies where the background was inpainted before"
    )


class Layers(Section):
    """How mask, foreground and hole are cut (paper, section 3), and into how many layers."""

    count: int = Field(
        2, ge=2, le=MAX_LAYERS, description="layers at most, the background being one; above 2 see docs/layers.md"
    )
    foreground_threshold: Fraction = Field(0.1, description="F copies I where m is above it (paper: 0.1)")
    foreground_fill: tuple[int, int, int] = Field((0, 0, 0), description="F elsewhere (paper: not stated)")
    dilate: Count = Field(9, description="radius in pixels at 512 by which the mask grows before inpainting")
    min_area: Fraction = Field(0.01, description="mask_empty below this share of pixels with m > 0.5")
    max_area: Fraction = Field(0.90, description="mask_full above this share of pixels inside the hole")
    further: Further = Further()

    def inert(self) -> set[str]:
        return {"count", "further"} if self.count == 2 else set()


class Inpaint(Section):
    backend: Literal["patchmatch", "lama", "telea"] = Field("patchmatch", description="the inpainter")
    weights: str = Field("", description="name in `l2i weights list` or a local path; empty = the backend's own")
    sha256: str = Field("", description="digest of weights given by path; required for TorchScript")
    dtype: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto: bfloat16 on GPUs that have it")
    batch: Positive = how(8, "images a forward pass")


class Judge(Section):
    enabled: bool = Field(True, description="false keeps everything the judge sees, unscored")
    head: str = Field("", description="path or name of a trained head; empty = the one shipped with the project")
    threshold: float = Field(-1.0, ge=-1, le=1, description="keep at or above; -1 = the head's own, from its card")
    batch: Positive = how(16, "images a forward pass")
    compile: bool = Field(False, description="the backbone through torch.compile: minutes at the start, then faster")

    def inert(self) -> set[str]:
        return set() if self.compile else {"compile"}


class Judges(Section):
    mask: Judge = Judge()
    inpainting: Judge = Judge()


class Shards(Section):
    jpeg_quality: int = Field(95, ge=1, le=100, description="of image and background (4:4:4)")
    features: bool = Field(True, description="keep what the judges saw, in features/, for `l2i refilter` and training")


class Previews(Section):
    side: Positive = Field(192, description="pixels a panel")
    quality: int = Field(75, ge=1, le=100, description="WebP quality")
    rejected_per_shard: Count = Field(400, description="rejected samples with a preview, at most; 0 = none")
    kept_per_shard: Count = Field(100, description="kept samples with a preview, at most; 0 = none")


class Nsfw(Section):
    enabled: bool = Field(False, description="score every image with an NSFW model, and refuse from the threshold on")
    threshold: Fraction = Field(0.8, description="refuse at or above (its authors: above 0.8 unsafe, below 0.2 safe)")
    weights: str = Field("", description="name in `l2i weights list` or a local path; empty = open_nsfw")
    sha256: str = Field("", description="digest of weights given by path")
    batch: Positive = how(8, "images a call")


class Safety(Section):
    """What must not come in. Lists are text files with a hash a line, or parquet; local or URLs. Not where they lie
    but what they hold is part of the identity: their digests are in run.json."""

    sha256_lists: list[str] = how([], "blocklists of files, by SHA-256")
    md5_lists: list[str] = how([], "blocklists of files, by MD5")
    pdq_lists: list[str] = how([], "blocklists of pictures, by PDQ, a perceptual hash of 256 bits")
    pdq_radius: int = Field(31, ge=0, le=128, description="bits in which a picture may differ from a listed one")
    takedown_logs: list[str] = how([], "takedowns.jsonl of other runs; this output folder's own always counts")
    nsfw: Nsfw = Nsfw()


class Group(Section):
    """One pool of actors: the stages it runs, one after another in the same process, and what an actor takes."""

    stages: list[str] = Field(description="stage names, in pipeline order")
    actors: Count = Field(0, description="0 = as many as the cluster's free CPUs or GPUs allow")
    cpus: float = Field(1.0, ge=0, description="CPUs an actor reserves")
    gpus: float = Field(0.0, ge=0, description="GPUs an actor reserves")
    memory_gb: float = Field(0.0, ge=0, description="memory an actor reserves; 0 = not reserved")
    slots: Positive = Field(2, description="batches sent to an actor ahead of time")


class Cluster(Section):
    address: str = Field("", description="Ray address; empty = RAY_ADDRESS, or a local Ray")
    cpus: Count = Field(0, description="CPUs of a local Ray; 0 = all")
    object_store_gb: float = Field(0.0, ge=0, description="object store of a local Ray; 0 = sized to the machine")
    fetchers: Count = Field(0, description="fetch actors; 0 = one per two GPUs, or per sixteen CPUs")
    fetcher_cpus: float = Field(0.5, ge=0, description="CPUs a fetch actor reserves")
    groups: list[Group] = Field([], description="empty = chosen from what the cluster has (see `l2i build --dry-run`)")
    batch_rows: Positive = Field(32, description="input rows of a batch")
    window: Count = Field(0, description="batches in flight; 0 = three per model actor")
    shards_in_flight: Count = Field(0, description="shards open at once; 0 = one per fetch actor, and a quarter more")
    call_timeout: Seconds = Field(
        1800.0,
        description="seconds for one batch in one group, and for the next of a fetch actor; a hung one is replaced",
    )
    attempts: Positive = Field(3, description="attempts at a shard before it is listed as failed")


class Observe(Section):
    """What a running build tells, and to whom (docs/observability.md)."""

    metrics_port: int = Field(0, ge=0, le=65535, description="port of the driver's Prometheus metrics; 0 = none")
    metrics_address: str = Field("127.0.0.1", description="address they are served on; 0.0.0.0 = every interface")
    log_format: Literal["text", "json"] = Field("text", description="json: one JSON object a line, on standard error")
    log_level: Literal["debug", "info", "warning"] = Field("info", description="of JSON lines: the least one written")
    log_every: Seconds = Field(60.0, description="seconds between progress lines where there is no terminal")


class Config(Section):
    """A whole run. ``metadata`` and ``out`` are local paths or fsspec URLs (``s3://``, ``gs://``, ``memory://``)."""

    # Not where the metadata lie but what they hold is part of the identity: the digest of the input plan.
    metadata: str = how("", "parquet file, folder or glob; for source img2dataset_shards: the tar folder")
    out: str = how("", "output folder")
    source: Literal["urls", "img2dataset_shards", "img2dataset"] = Field(
        "urls", description="urls: own guarded fetcher; img2dataset_shards: its output; img2dataset: its downloader"
    )
    seed: int = Field(0, description="seed of everything random")
    ingest: Ingest = Ingest()
    fetch: Fetch = Fetch()
    image: Image = Image()
    segment: Segment = Segment()
    layers: Layers = Layers()
    inpaint: Inpaint = Inpaint()
    judge: Judges = Judges()
    shards: Shards = Shards()
    previews: Previews = Previews()
    safety: Safety = Safety()
    cluster: Cluster = how(Cluster(), "how the run is spread over machines")
    observe: Observe = how(Observe(), "what a running build tells")

    @model_validator(mode="after")
    def _layers_fit(self) -> Config:
        if self.image.size % 8:
            raise ValueError(f"image.size must be a multiple of 8, the JPEG and LaMa grid; got {self.image.size}")
        return self
