"""Where each thing of a line of models lies, below the line's folder. The paths of dvc.yaml, once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

COMPARISON, COMPARED = "data/compare", "data/results/compare.json"


@dataclass(frozen=True)
class Layout:
    """Paths of one line of models.

    Attributes:
        root: the line's folder, with dvc.yaml and params.yaml.
    """

    root: Path

    @property
    def params(self) -> Path:
        return self.root / "params.yaml"

    @property
    def base_card(self) -> Path:
        return self.root / "data/cards/pretrained.yaml"

    @property
    def pretrained(self) -> Path:
        return self.root / "data/models/pretrained"

    @property
    def private(self) -> Path:
        """Run-time state that is neither versioned nor shared: tracking store, Prefect's home, attempts, locks."""
        return self.root / ".otmf"

    @property
    def tracking(self) -> Path:
        """The tracking store of a line that is given no other: a sqlite file and a folder of artifacts."""
        return self.private / "mlflow"

    @property
    def predictions(self) -> Path:
        """What was predicted over HTTP, a file for each day."""
        return self.private / "predictions"

    @property
    def comparison(self) -> Path:
        """The recipe of the line's comparison of methods."""
        return self.root / COMPARISON

    @property
    def compared(self) -> Path:
        """What the comparison came to."""
        return self.root / COMPARED

    def card(self, task: str) -> Path:
        return self.root / f"data/cards/{task}.yaml"

    def raw(self, task: str) -> Path:
        return self.root / f"data/raw/{task}"

    def finetuned(self, task: str) -> Path:
        return self.root / f"data/models/finetuned/{task}"

    def task_vector(self, task: str) -> Path:
        return self.root / f"data/models/task_vectors/{task}"

    def merged(self, step: str) -> Path:
        return self.root / f"data/models/merged/{step}"

    def masks(self, step: str) -> Path:
        return self.root / f"data/models/masks/{step}"

    def heads(self, step: str) -> Path:
        return self.root / f"data/models/heads/{step}"

    def manifest(self, task: str) -> Path:
        return self.root / f"data/results/splits/{task}.json"

    def trace(self, step: str) -> Path:
        return self.root / f"data/results/merges/{step}.json"

    def evaluation(self, step: str) -> Path:
        return self.root / f"data/results/steps/{step}.json"

    def gate(self, step: str) -> Path:
        return self.root / f"data/results/gates/{step}.json"
