"""What each reason means, in words for the people who read the report."""

from __future__ import annotations

from l2i_builder.sample import PeelEnd, Reason

EXPLANATIONS: dict[Reason, str] = {
    Reason.BAD_SCHEME: "The link is not http or https (file:, data:, ftp: and the like are never opened).",
    Reason.BAD_URL: "The link is empty, has no host, is too long or holds forbidden characters.",
    Reason.URL_CREDENTIALS: "The link carries a user name or password; it is never sent, and hidden everywhere.",
    Reason.SSRF_BLOCKED: "The link leads to a private or reserved network address, which the fetcher never visits.",
    Reason.TOO_MANY_REDIRECTS: "The server kept pointing elsewhere, or in a circle.",
    Reason.DNS_ERROR: "The host name is not known any more. May come back.",
    Reason.CONNECT_ERROR: "The server could not be reached. May come back.",
    Reason.TLS_ERROR: "The server's certificate or encryption is not valid.",
    Reason.TIMEOUT: "The server did not finish its answer in time. May come back.",
    Reason.HTTP_4XX: "The server says the image is gone or not for us (404, 403 and the like).",
    Reason.HTTP_5XX: "The server is broken or overloaded. May come back.",
    Reason.RATE_LIMITED: "The server asked for fewer requests, also after waiting. May come back.",
    Reason.BODY_TOO_LARGE: "The answer is larger than the limit, before or after decompression.",
    Reason.BODY_TRUNCATED: "The answer ended before its announced length. May come back.",
    Reason.BAD_ENCODING: "The answer's compression is damaged or unknown.",
    Reason.EMPTY_BODY: "The server answered with nothing.",
    Reason.OPTED_OUT: "The publisher forbids use for machine learning, and this is respected.",
    Reason.NOT_IMAGE: "The answer is a web page or something else that is no image.",
    Reason.UNSUPPORTED_FORMAT: "An image, but of a format that is not decoded (SVG, HEIC and the like).",
    Reason.DECODE_ERROR: "The image file is damaged.",
    Reason.DECODE_TRUNCATED: "The image file ends too early.",
    Reason.DECODER_CRASHED: "The file brought the decoder down, or needed more memory than allowed.",
    Reason.DECODE_TIMEOUT: "Decoding took longer than allowed.",
    Reason.TOO_MANY_PIXELS: "More pixels than the limit; refused before decoding.",
    Reason.ANIMATED: "An animation, not a photograph.",
    Reason.TOO_SMALL: "The shorter side is below the minimum.",
    Reason.BAD_ASPECT: "Too long and narrow.",
    Reason.HASH_MISMATCH: "Not the image the metadata promised: its digest differs, so it was changed since.",
    Reason.DUPLICATE: "The same link and caption, or the same image file, came earlier in the shard.",
    Reason.UNSAFE: "Likely unsafe content, not rated at all, or on a block list. Its pixels are never written.",
    Reason.BAD_CAPTION: "The caption is empty or far too long.",
    Reason.LOW_AESTHETIC: "The aesthetic score of the metadata is below the minimum.",
    Reason.LOW_SIMILARITY: "Image and text fit badly, by the similarity of the metadata.",
    Reason.WATERMARK: "Likely watermarked, by the metadata.",
    Reason.WRONG_LANGUAGE: "The caption's language is not among those wanted.",
    Reason.MASK_EMPTY: "The segmenter found no object, or a tiny one.",
    Reason.MASK_FULL: "The object fills nearly the whole image, so no background is left to see.",
    Reason.MASK_REJECTED: "The mask judge's score is below its threshold: the cut-out is likely incomplete or "
    "spills over.",
    Reason.INPAINTING_REJECTED: "The inpainting judge's score is below its threshold: the filled background "
    "likely shows an object or an artefact.",
    Reason.STAGE_ERROR: "A stage raised an error for this one sample; the detail says which. Worth a bug report if "
    "common.",
    Reason.UNDECIDED: "New thresholds would keep it, but it was never inpainted, or its pixels were not stored; "
    "`l2i build --retry-failed` makes up for it.",
    Reason.TAKEN_DOWN: "Taken down on request. Its pixels, link, caption and digests are gone, and stay gone.",
}

# Why no further object was peeled off a kept sample's background.
PEEL_ENDS: dict[PeelEnd, str] = {
    PeelEnd.ENOUGH: "It has as many layers as layers.count allows.",
    PeelEnd.MASK_EMPTY: "The segmenter found nothing more, or less than layers.further.min_area.",
    PeelEnd.MASK_FULL: "What it found fills nearly all of the background.",
    PeelEnd.MASK_INPAINTED: "What it found lies mostly where the background was inpainted: a trace, no object.",
    PeelEnd.MASK_REJECTED: "The mask judge refused the further mask.",
    PeelEnd.INPAINTING_REJECTED: "The inpainting judge refused what would be behind it.",
    PeelEnd.STAGE_ERROR: "A model failed on the background.",
}
NOT_PEELED = "It was kept by thresholds that came later, and nothing was peeled off it."
