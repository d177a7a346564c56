"""``croissant.json``: what the files are and what a sample is made of, in Croissant 1.1 (MLCommons).

Two record sets: ``samples``, a line of every sidecar, and ``layers``, the pictures of every sample out of the tars.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from l2i_builder.output.manifest import pretty
from l2i_builder.publish.copying import SIDECAR

CONFORMS_TO = "http://mlcommons.org/croissant/1.1"
PICTURES = {"jpg": "image", "fg.png": "foreground", "bg.jpg": "background", "mask.png": "mask"}
_TYPES = {pa.string(): "sc:Text", pa.int64(): "sc:Integer", pa.float64(): "sc:Float", pa.bool_(): "sc:Boolean"}
_MEANINGS = {
    "key": "Hash of URL and caption: the name of the sample everywhere.",
    "split": "train, test (LL2I-E) or la (unfiltered).",
    "tar": "The shard that holds the sample.",
    "position": "Place of the sample in its shard, from 0.",
    "size": "Bytes of all members of the sample.",
    "pixels": "SHA-256 over the sample's pictures.",
    "url": "Where the photograph was found.",
    "caption": "The text that came with it.",
    "sha256": "SHA-256 of the file as fetched.",
    "bytes": "Bytes of the file as fetched.",
    "opt_out": "Signals against use for machine learning that came with the file; empty when none.",
    "mask_score": "Probability that the mask is good, by the filter; -1 when not judged.",
    "inpainting_score": "Probability that the background is good, by the filter; -1 when not judged.",
    "punsafe": "Probability of unsafe content, from the metadata; -1 when unknown.",
    "reason": "Why the filters refused it; empty when kept, as in every split but la.",
}
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def croissant(
    about: Mapping[str, Any], files: Mapping[str, Mapping[str, Any]], suffixes: Sequence[str] = tuple(PICTURES)
) -> bytes:
    """Return the metadata as JSON-LD.

    about: name, description, license, version, url, keywords, cite_as, date (of publication, or ""). files: name ->
    {"bytes", "sha256"} of tars and sidecars. suffixes: members of a sample that are pictures.
    """
    tars = sorted(name for name in files if name.endswith(".tar"))
    sidecars = sorted(name for name in files if name.endswith(".parquet"))
    distribution = [_file(name, files[name]) for name in (*tars, *sidecars)]
    distribution += [
        {
            "@type": "cr:FileSet",
            "@id": "sidecars",
            "name": "sidecars",
            "description": "A line for every sample.",
            "encodingFormat": "application/x-parquet",
            "includes": "metadata/*.parquet",
        },
        *(
            {
                "@type": "cr:FileSet",
                "@id": f"{_word(suffix)}-files",
                "name": f"{_word(suffix)}-files",
                "description": f"Members of the tars that end in .{suffix}.",
                "containedIn": [{"@id": name} for name in tars],
                "encodingFormat": "image/jpeg" if suffix.endswith("jpg") else "image/png",
                # Keys end in hex digits, so this is no other member that ends alike, as .bg.jpg and .bg2.jpg do.
                "includes": f"*{4 * '[0-9a-f]'}.{suffix}",
            }
            for suffix in suffixes
        ),
    ]
    return pretty(
        {
            "@context": _CONTEXT,
            "@type": "sc:Dataset",
            "conformsTo": CONFORMS_TO,
            "name": about["name"],
            "description": about["description"],
            "license": about["license"],
            "version": about["version"],
            "url": about["url"],
            "keywords": list(about["keywords"]),
            "citeAs": about["cite_as"],
            "isLiveDataset": False,
            **({"datePublished": about["date"]} if about["date"] else {}),
            "distribution": distribution,
            "recordSet": [_samples(sidecars), *(_layers(suffix) for suffix in suffixes)],
        }
    )


def _file(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "contentSize": f"{entry['bytes']} B",
        "encodingFormat": "application/x-tar" if name.endswith(".tar") else "application/x-parquet",
        "sha256": entry["sha256"],
    }


def _samples(sidecars: Sequence[str]) -> dict[str, Any]:
    """A record for every line of the sidecars."""
    return {
        "@type": "cr:RecordSet",
        "@id": "samples",
        "name": "samples",
        "description": "What is known of each sample: a line of the sidecars.",
        "key": {"@id": "samples/key"},
        "field": [
            _field(
                f"samples/{column.name}",
                _MEANINGS.get(column.name, column.name.replace("_", " ")),
                _TYPES[column.type],
                {"fileSet": {"@id": "sidecars"}, "extract": {"column": column.name}},
            )
            for column in SIDECAR
        ],
    }


def _layers(suffix: str) -> dict[str, Any]:
    """A record for one kind of picture of every sample."""
    name = _word(suffix)
    files = {"fileSet": {"@id": f"{name}-files"}}
    key = {"extract": {"fileProperty": "filename"}, "transform": {"regex": r"([^.]+)"}}
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": f"The {name} of each sample, by its key.",
        "key": {"@id": f"{name}/key"},
        "field": [
            _field(f"{name}/key", "Key of the sample.", "sc:Text", files | key)
            | {"references": {"field": {"@id": "samples/key"}}},
            _field(
                f"{name}/content",
                f"The {name}.",
                "sc:ImageObject",
                files | {"extract": {"fileProperty": "content"}},
            ),
        ],
    }


def _field(name: str, description: str, kind: str, source: dict[str, Any]) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": name,
        "name": name,
        "description": description,
        "dataType": kind,
        "source": source,
    }


def _word(suffix: str) -> str:
    return PICTURES.get(suffix, suffix.partition(".")[0])
