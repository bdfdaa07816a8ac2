"""Fine-tuned encoders in the forms that people have them."""

from otmf.formats.reading import Found, named, read

__all__ = ["Found", "named", "read"]
