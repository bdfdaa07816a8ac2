"""Fine-tuned encoders in the forms that people have them: Hugging Face, LoRA adapters, shards, pickles."""

from otmf.formats.reading import Found, named, read

__all__ = ["Found", "named", "read"]
