"""A line's encoder: its name and what it reads, as the card of its base says, and whether there is such an encoder at all."""

from __future__ import annotations

import difflib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from otmf import settings
from otmf.data import cards, datasets
from otmf.runtime import foreign_parsers, layout, strict_json


@dataclass(frozen=True)
class Encoder:
    """Attributes:
    name: for people.
    reads: `images` or `texts`.
    """

    name: str
    reads: str


def of(line: layout.Layout, params: settings.Params) -> Encoder:
    """The encoder of a line. Raises CardError if the card of its base does not hold up."""
    return described(cards.read_base(line.base_card), params)


def described(base: cards.BaseCard, params: settings.Params) -> Encoder:
    """The encoder of a base's card and a line's parameters."""
    if base.backbone is not None:
        return Encoder(Path(base.path).name, datasets.TEXTS)
    return Encoder(Path(params.backbone.model).stem, datasets.IMAGES)


def require_known(root: Path, model: str) -> None:
    """Refuses a `backbone.model` that cannot be built, before anything starts: importing open_clip would take seconds.

    Args:
        root: the line's folder, which the JSON file of an encoder of its own lies in.
        model: the value in params.yaml.

    Raises:
        SettingsError: if it is neither the base's own encoder, nor a model of open_clip, nor such a JSON file.
    """
    if model == settings.OF_THE_BASE:
        return
    if model.endswith(".json"):
        _require_configuration(root, model)
        return
    names = _names_of_open_clip()
    if model.replace("/", "-") not in names:
        by_small_letters = {name.lower(): name for name in names}
        alike = difflib.get_close_matches(model.lower(), by_small_letters, n=2)
        near = [by_small_letters[name] for name in alike] or ["ViT-B-32", "ViT-L-14"]
        raise settings.SettingsError(
            f"expected a model of open_clip or a JSON file in data/backbones as backbone.model in params.yaml; received {model!r}; "
            f"write {' or '.join(near)}, for example"
        )


def _require_configuration(root: Path, model: str) -> None:
    path = (root / model).resolve()
    if not path.is_relative_to(root.resolve()) or not path.is_file():
        raise settings.SettingsError(
            f"expected the JSON file of an encoder inside the line's folder as backbone.model in params.yaml; received {model!r}; "
            "put the file in data/backbones"
        )
    with foreign_parsers.reading(
        lambda reason: settings.SettingsError(
            f"expected JSON in {model}, which backbone.model in params.yaml names; received text that does not parse ({reason}); mend it"
        )
    ):
        document = strict_json.loads(path.read_text(encoding="utf-8"))
    missing = [key for key in ("embed_dim", "vision_cfg") if not isinstance(document, dict) or key not in document]
    if missing:
        raise settings.SettingsError(
            f"expected `embed_dim` and `vision_cfg` in {model}, in open_clip's form; received no {' and no '.join(missing)}; add them"
        )


def _names_of_open_clip() -> list[str]:
    """What open_clip.list_models() gives, from the names of its files."""
    package = importlib.util.find_spec("open_clip")
    folders = package.submodule_search_locations if package else None
    return sorted(path.stem for folder in folders or () for path in Path(folder).glob("model_configs/*.json"))
