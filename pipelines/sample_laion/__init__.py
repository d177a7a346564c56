"""A small sample in the shape of LAION-Aesthetics: real photographs, a real web on loopback, and its real troubles."""

from pipelines.sample_laion.metadata import write_metadata
from pipelines.sample_laion.photos import gather
from pipelines.sample_laion.web import SampleWeb

__all__ = ["SampleWeb", "gather", "write_metadata"]
