"""Stage `compare`: every method of a list over several orders of the line's experts."""

from __future__ import annotations

import resource

from otmf import settings
from stages import _bench, _files, _params
from stages._run import Facts

SETTINGS = "data/compare/compare.yaml"
RESULT = "data/results/compare.json"


def main(line: _params.Line) -> Facts:
    wanted = _params.load_yaml(line.root / SETTINGS)
    bench = _bench.Bench(line, wanted["tasks"])
    rows = [
        row
        for name, options in wanted["methods"].items()
        for seed in wanted["orders"]
        for row in bench.run(
            name,
            settings.section(settings.Merge, options["merge"]),
            [settings.section(settings.HeadTune, heads) for heads in options["head_tune"]],
            seed,
        )
    ]
    references = bench.references()
    untimed = [{key: value for key, value in row.items() if key not in ("seconds", "peak_memory_mib")} for row in rows]
    _files.write_json(line.root / RESULT, {"tasks": wanted["tasks"], "references": references, "rows": untimed})
    facts = Facts(inputs=[line.pretrained], outputs=[line.root / RESULT], parameters={"orders": wanted["orders"]})
    for row in rows:
        facts.metrics[f"acc/{row['method']}/{row['heads']}/{row['seed']}"] = row["acc"]
        facts.metrics[f"seconds/{row['method']}/{row['seed']}"] = row["seconds"]
    facts.metrics["peak_memory_mib_of_all"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return facts
