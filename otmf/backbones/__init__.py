"""Encoders of images and texts: skeletons without weights; the weights are a state dict."""

from otmf.backbones.backbone import Backbone, Foreign
from otmf.backbones.opening import CONFIG, build, extract, opened, preload, read_config, tagged

__all__ = ["CONFIG", "Backbone", "Foreign", "build", "extract", "opened", "preload", "read_config", "tagged"]
