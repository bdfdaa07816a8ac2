"""The way of a version, from raw data to the merged model, drawn as SVG: a column per step, a row per kind of output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from otmf.provenance import statements

WIDTH, HEIGHT, GAP_X, GAP_Y, LEFT = 118, 40, 34, 36, 92
LINE = "#8195ab"
ROWS = ("raw", "finetuned", "task_vectors", "merged", "heads")
NAMES = {"raw": "data", "finetuned": "fine-tuned", "task_vectors": "task vector", "merged": "merged", "heads": "heads"}


@dataclass(frozen=True)
class Node:
    """A content in the graph: path, its sha256, and its place."""

    path: str
    sha256: str
    column: int
    row: int

    @property
    def x(self) -> int:
        return LEFT + self.column * (WIDTH + GAP_X)

    @property
    def y(self) -> int:
        return 8 + self.row * (HEIGHT + GAP_Y)


def nodes(stages: Mapping[str, statements.Stage], tasks: Mapping[str, str]) -> dict[str, Node]:
    """Path -> node, for what the stages of a version read and wrote.

    Args:
        stages: as recorded.
        tasks: step -> task, in the order of the merges.
    """
    columns = {task: number for number, task in enumerate(tasks.values(), start=1)}
    columns |= {step: number for number, step in enumerate(tasks, start=1)} | {"s00": 0, "pretrained": 0}
    found = {}
    for stage in stages.values():
        for path, content in {**stage.inputs, **stage.outputs}.items():
            parts = path.split("/")
            kind = "finetuned" if path == "data/models/pretrained" else "raw" if parts[1] == "raw" else parts[2]
            if parts[1] in ("raw", "models") and kind in ROWS and parts[-1] in columns:
                found[path] = Node(path, content.sha256, columns[parts[-1]], ROWS.index(kind))
    return found


def edges(stages: Mapping[str, statements.Stage], known: Mapping[str, Node]) -> list[tuple[Node, Node]]:
    """What was read for what; without the base, which every stage reads."""
    return [
        (known[source], known[target])
        for stage in stages.values()
        for source in stage.inputs
        for target in stage.outputs
        if source in known and target in known and source != "data/models/pretrained"
    ]


def svg(stages: Mapping[str, statements.Stage], tasks: Mapping[str, str], champion: str) -> str:
    """The graph; the node of `champion` (a path) stands out. Every node's title has its path and sha256."""
    known = nodes(stages, tasks)
    width = LEFT + (len(tasks) + 1) * (WIDTH + GAP_X)
    height = 8 + len(ROWS) * (HEIGHT + GAP_Y)
    parts = [
        f'<svg id="graph" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="lineage" style="min-width:{width * 0.9:.0f}px;width:100%;max-width:{width * 1.1:.0f}px">',
        f'<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="{LINE}"/></marker></defs>',
    ]
    parts += [
        f'<text x="0" y="{8 + row * (HEIGHT + GAP_Y) + HEIGHT / 2 + 4}" font-size="12" fill="#4b5a6b">{NAMES[kind]}</text>'
        for row, kind in enumerate(ROWS)
    ]
    parts += [_edge(source, target) for source, target in edges(stages, known)]
    parts += [_node(node, node.path == champion) for node in known.values()]
    return "\n".join([*parts, "</svg>"])


def _edge(source: Node, target: Node) -> str:
    if source.row == target.row:
        start, end = (source.x + WIDTH, source.y + HEIGHT / 2), (target.x, target.y + HEIGHT / 2)
        bend = (start[0] + end[0]) / 2
        path = f"M{start[0]} {start[1]} C{bend} {start[1]} {bend} {end[1]} {end[0]} {end[1]}"
    elif abs(target.row - source.row) == 1 and source.column == target.column:
        path = f"M{source.x + WIDTH / 2} {source.y + HEIGHT} L{target.x + WIDTH / 2} {target.y}"
    else:  # past other boxes, through the gap on their right
        start, end = (source.x + WIDTH, source.y + HEIGHT / 2), (target.x + WIDTH, target.y + HEIGHT / 2)
        bend = max(start[0], end[0]) + 8 + 9 * abs(target.row - source.row)
        path = f"M{start[0]} {start[1]} C{bend} {start[1]} {bend} {end[1]} {end[0]} {end[1]}"
    return f'<path d="{path}" fill="none" stroke="{LINE}" stroke-width="1.2" marker-end="url(#tip)"/>'


def _node(node: Node, champion: bool) -> str:
    name = node.path.split("/")[-1].replace("pretrained", "base")
    fill, stroke = ("#dcefdc", "#2e7d32") if champion else ("#f6f8fb", LINE)
    shown = name if len(name) <= 15 else name[:14] + "…"
    return (
        f"<g><title>{escape(node.path)} sha256 {escape(node.sha256)}</title>"
        f'<rect x="{node.x}" y="{node.y}" width="{WIDTH}" height="{HEIGHT}" rx="5" fill="{fill}" stroke={quoteattr(stroke)}/>'
        f'<text x="{node.x + 8}" y="{node.y + 17}" font-size="12" fill="#1a2330">{escape(shown)}</text>'
        f'<text x="{node.x + 8}" y="{node.y + 32}" font-size="10" font-family="monospace" fill="#4b5a6b">{escape(node.sha256[:12])}</text></g>'
    )
