"""Task cards: what a task owner submits. A card names the task, its classes and where its images (or its checkpoint) are."""

from __future__ import annotations

import re
import string
from collections import Counter
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from ruamel.yaml import YAML

from otmf.data import torchvision_sets
from otmf.runtime import foreign_parsers, strict_yaml
from otmf.settings import limits, messages, names

_NUMBER = re.compile(rb"(?<![0-9A-Za-z])[0-9][0-9A-Fa-fxo_.:]*")
_UNWRITABLE = re.compile("[\0\ud800-\udfff]")


class CardError(ValueError):
    """A card that cannot be used. The message says what was expected, what was received and what to do."""


ClassName = Annotated[str, Field(min_length=1, max_length=200)]
FilePath = Annotated[str, Field(max_length=1000)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Checkpoint(_Strict):
    """An encoder fine-tuned elsewhere: a file or folder of weights in any form of `otmf.formats`, and optionally its head.

    Attributes:
        path: the file or folder.
        head: a safetensors file with `weight` (classes, features) and optionally `bias` (classes,), applied to L2-normalised
            features.
        missing: patterns of names that the checkpoint may lack; those tensors stay as in the base.
        ignored: patterns of names in the checkpoint that are left out.
    """

    path: FilePath
    head: FilePath | None = None
    missing: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


class Columns(_Strict):
    """Which columns of a table mean what.

    Attributes:
        text: the name of a column, or a text with names in braces, such as `premise: {premise} hypothesis: {hypothesis}`.
        label: class names or their positions from 0.
        split: says of each row which part it belongs to; not read of a folder with a table for each part.
        train, test: what the parts are called there.
        left_out: other values of `split` whose rows are not taken.
    """

    text: str = "{text}"
    label: str = "label"
    split: str = "split"
    train: str = "train"
    test: str = "test"
    left_out: tuple[str, ...] = ()

    @field_validator("text", mode="before")
    @classmethod
    def _name_alone(cls, text: Any) -> Any:
        return f"{{{text}}}" if isinstance(text, str) and text.strip() and not set(text) & set("{}") else text

    @model_validator(mode="after")
    def _text_names_columns(self) -> Columns:
        try:
            fields = [field for field in string.Formatter().parse(self.text) if field[1] is not None]
        except ValueError as error:
            raise ValueError(
                f"expected names of columns in braces; received {self.text!r} ({error}); mend it"
            ) from error
        if not fields or any(not name or form or conversion for _, name, form, conversion in fields):
            raise ValueError(
                f"expected a text with at least one plain name of a column in braces; received {self.text!r}; mend it"
            )
        if re.search(r"[/\\]|\.\.", self.train + self.test):
            raise ValueError(f"expected names of parts; received {self.train!r} and {self.test!r}; leave out slashes")
        return self


TABLES = ("csv", "parquet", "jsonl")
PACKAGED = "torchvision"
PROMPTS = {"images": ("a photo of a {}.",), "texts": ("{}",)}


class Card(_Strict):
    """One task: its name, where its images or texts come from, and what may be said about it.

    `source` is, of images, `npz` (arrays train_x, train_y, test_x, test_y), `folder` (train/<class>/*.png, test/<class>/*.png) or
    `embedded` (a task that ships with otmf, named by `path`), or `torchvision` (its data set of the name `dataset`, in the folder
    `path`, where it is downloaded to if it is not there); of texts `csv`, `parquet` or `jsonl`: a table, or a folder with
    one for each part, whose `columns` can be named. Paths are relative to the card's own folder.
    With `checkpoint`, nothing is trained: `train` inputs then serve the merge alone and need no labels.

    Attributes:
        folders: of source `folder`, the names of the classes' folders, where they are not the classes' own.
    """

    name: names.Slug
    source: Literal["npz", "folder", "embedded", "torchvision", "csv", "parquet", "jsonl"]
    path: FilePath
    dataset: str | None = None
    columns: Columns = Columns()
    classes: tuple[ClassName, ...] | None = None
    folders: tuple[ClassName, ...] = ()
    prompts: tuple[str, ...] = ()
    checkpoint: Checkpoint | None = None
    title: str = ""
    description: str = ""
    owner: str = ""
    licence: str = ""
    finetune: dict[str, Any] = Field(default_factory=dict)
    head: dict[str, Any] = Field(default_factory=dict)
    merge: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _classes_are_distinct(self) -> Card:
        if self.classes is None:
            if self.source in ("folder", PACKAGED):
                what = "folder of images" if self.source == "folder" else "label"
                raise ValueError(f"expected `classes`, one name per {what}; received none; list them")
            return self
        doubled = sorted(name for name, count in Counter(self.classes).items() if count > 1)
        if doubled:
            raise ValueError(f"expected distinct classes; received {doubled[:3]} more than once; name each class once")
        if len(self.classes) < 2:
            raise ValueError(f"expected at least 2 classes; received {len(self.classes)}; a task tells classes apart")
        return self

    @model_validator(mode="after")
    def _folders_are_of_classes(self) -> Card:
        if not self.folders:
            return self
        if self.source != "folder" or len(self.folders) != len(self.classes or ()):
            raise ValueError(
                f"expected `folders` with source folder alone, one for each of {len(self.classes or ())} classes; received "
                f"{len(self.folders)} with source {self.source}; mend them"
            )
        if len(set(self.folders)) < len(self.folders):
            raise ValueError("expected distinct `folders`; received one twice; name each once")
        return self

    @model_validator(mode="after")
    def _dataset_is_of_torchvision(self) -> Card:
        if (self.source == PACKAGED) != (self.dataset is not None):
            raise ValueError(
                f"expected `dataset` with source {PACKAGED}, and only there; received {self.dataset!r} with source {self.source}; mend the card"
            )
        if self.dataset is not None and self.dataset not in torchvision_sets.DATASETS:
            raise ValueError(
                f"expected a data set of torchvision ({', '.join(torchvision_sets.DATASETS)}); received {messages.shown(self.dataset)}; choose one of them, or "
                "bring the pictures as a folder"
            )
        return self

    @property
    def reads(self) -> str:
        """What the card brings: `images` or `texts`."""
        return "texts" if self.source in TABLES else "images"

    @model_validator(mode="after")
    def _columns_are_of_tables(self) -> Card:
        if "columns" in self.model_fields_set and self.source not in TABLES:
            raise ValueError(
                f"expected `columns` with {', '.join(TABLES)} alone; received source {self.source}; remove them"
            )
        return self

    @model_validator(mode="after")
    def _prompts_have_a_place(self) -> Card:
        bad = [prompt for prompt in self.prompts if prompt.count("{}") != 1]
        if bad:
            raise ValueError(f"expected prompts with one {{}} for the class name; received {bad[:3]}; mend them")
        return self


class Part(Card):
    """A set of labelled images the base is pretrained on: a whole task's, or only what its split holds back."""

    share: Literal["all", "held_back"] = "all"
    mirror: bool = False


class TextBackbone(_Strict):
    """How an encoder of texts reads them; its architecture stands beside its weights, in config.json.

    Attributes:
        tokeniser: a tokenizer.json, relative to the card; None: the one beside the weights.
        length: tokens of an input; longer texts are cut.
        pooling: how an encoder's tokens become one vector: their mean, or the first. A decoder gives its first token's.
    """

    tokeniser: FilePath | None = None
    length: Annotated[int, Field(ge=2, le=100_000)] = 128
    pooling: Literal["mean", "first"] = "mean"


class BaseCard(_Strict):
    """The base of a line of models: where theta0 comes from.

    With `backbone`, `path` is a folder as Hugging Face saves encoders of texts: config.json, tokenizer.json, weights. `train` pretrains on the labelled images of the parts named below (of a part with `share: held_back` the fraction
    `held_back` of its train images, the same that the splits of the line's tasks leave out), `checkpoint` reads a file of weights, `tag`
    takes open_clip's weights of that tag (needs the network once).
    """

    name: Literal["pretrained"] = "pretrained"
    source: Literal["train", "checkpoint", "tag"]
    parts: tuple[Part, ...] = ()
    held_back: float = Field(default=0.0, ge=0, lt=1)
    seed: int = Field(default=0, ge=0)
    path: FilePath | None = None
    backbone: TextBackbone | None = None
    tag: str | None = None
    licence: str = ""
    description: str = ""

    @model_validator(mode="after")
    def _has_what_its_source_needs(self) -> BaseCard:
        needed = {"train": "parts", "checkpoint": "path", "tag": "tag"}[self.source]
        if any(part.share == "held_back" for part in self.parts) and not self.held_back:
            raise ValueError(
                "expected `held_back` above 0 for parts with share: held_back; received 0; set the fraction"
            )
        if not getattr(self, needed):
            raise ValueError(f"expected `{needed}` for a base with source {self.source}; received none; add it")
        if self.backbone and self.source != "checkpoint":
            raise ValueError(
                f"expected source checkpoint with `backbone`; received {self.source}; name the encoder's folder as `path`"
            )
        return self


def absolute(card: Card, base: Path) -> Card:
    """A card whose paths hold in any folder; `base` is the one that they start from."""
    checkpoint = card.checkpoint
    if checkpoint is not None:
        head = None if checkpoint.head is None else str((base / checkpoint.head).resolve())
        checkpoint = checkpoint.model_copy(update={"path": str((base / checkpoint.path).resolve()), "head": head})
    path = card.path if card.source == "embedded" else str((base / card.path).resolve())
    return card.model_copy(update={"path": path, "checkpoint": checkpoint})


def read(path: Path) -> Card:
    """The task card in a YAML file, checked.

    Raises:
        CardError: if the file is absent, too large, not YAML, or not a card; all mistakes in one sentence.
    """
    return _parse(Card, path)


def read_base(path: Path) -> BaseCard:
    """The base card in a YAML file, checked. Raises CardError as `read` does."""
    return _parse(BaseCard, path)


def dump(card: Card) -> str:
    """The card as YAML text that `read` accepts, with defaults left out."""
    stream = StringIO()
    yaml = YAML(typ="safe")
    yaml.default_flow_style = False
    yaml.dump(card.model_dump(mode="json", exclude_defaults=True), stream)
    return stream.getvalue()


def says_each_thing_once(content: Any) -> bool:
    """Whether a document of YAML stays small with every alias written out."""
    count, left, most = 0, [content], limits.now().card_bytes
    while left and count <= most:
        one = left.pop()
        count += 1
        if isinstance(one, dict | list):
            left.extend(one.values() if isinstance(one, dict) else one)
    return count <= most


def _unwritable(content: Any) -> str | None:
    """A text in a document, a key perhaps, that neither file systems nor UTF-8 can take; None if there is none."""
    left = [content]
    while left:
        one = left.pop()
        if isinstance(one, dict | list):
            left.extend([*one, *one.values()] if isinstance(one, dict) else one)
        elif isinstance(one, str) and _UNWRITABLE.search(one):
            return one
    return None


def _longest_number(text: bytes) -> int:
    """Length of the longest run that a reader of YAML would take for a number. Turning one into a number takes the square of it."""
    return max((len(found) for found in _NUMBER.findall(text)), default=0)


def _parse(model: type[Any], path: Path) -> Any:
    if not path.is_file():
        raise CardError(f"expected a card (a YAML file); received {path}, which is not a file; check the path")
    try:
        limits.require(f"bytes in the card {path}", path.stat().st_size, "card_bytes")
        text = path.read_bytes()
        limits.require(f"digits of one number in the card {path}", _longest_number(text), "card_digits")
    except limits.LimitError as error:
        raise CardError(str(error)) from error

    def refusal(reason: str) -> CardError:
        return CardError(f"expected YAML in {path}; received text that does not parse ({reason}); mend it")

    with foreign_parsers.reading(refusal, ours=(CardError,)):
        content = strict_yaml.loads(text.decode("utf-8"), refusal)
    if not says_each_thing_once(content):
        raise CardError(
            f"expected a card that says each thing once; received {path}, whose aliases repeat it many times over; write it out"
        )
    if (odd := _unwritable(content)) is not None:
        raise CardError(
            f"expected text that can be written to a file in {path}; received {messages.shown(odd)}, with the character NUL or half of a pair of "
            "characters; remove it"
        )
    if not isinstance(content, dict):
        raise CardError(
            f"expected a mapping of keys in {path}; received {foreign_parsers.kind(content)}; write `name: ...` lines"
        )
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise CardError(f"card {path}: {messages.described(error, model.model_fields)}") from error
