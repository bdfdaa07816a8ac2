"""The forms of an audit, from a document written by hand: what they say, that standards admit them, how a browser shows and prints them."""

from __future__ import annotations

import http.server
import json
import re
import shutil
import subprocess
import threading
from datetime import UTC, datetime
from pathlib import Path

import jsonschema
import pypdf
import pytest
from ruamel.yaml import YAML

from flows.audit import bill_of_materials, collect, diff, files, openlineage
from flows.audit import document as audit_document
from otmf.provenance import statements
from tests.flows.studies.test_report import BROWSER

AT = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
HOSTILE = '<script>alert("x")</script>'
ROOT = Path(__file__).resolve().parents[3]


def sha(seed: object) -> str:
    return statements.START[:40] + f"{abs(hash(str(seed))) % 16**24:024x}"


def content(path: str) -> statements.Output:
    return statements.Output(sha256=sha(path), md5="a" * 32 + ".dir")


def stage(inputs: list[str], outputs: list[str], **parameters) -> statements.Stage:
    return statements.Stage(
        command="python -m stages", outcome="ran", inputs={path: content(path) for path in inputs},
        outputs={path: content(path) for path in outputs}, parameters=parameters, run="f" * 32, host={"device": "cpu"},
    )  # fmt: skip


def document(count: int = 3, **changes) -> audit_document.Audit:
    names = [f"task_{number}" for number in range(1, count + 1)]
    stages = {
        "pretrained": stage(
            ["data/raw/pretrained"], ["data/models/pretrained", "data/models/merged/s00", "data/models/heads/s00"]
        )
    }
    tasks, steps, decisions = [], [], []
    for number, name in enumerate(names, start=1):
        step, before = f"s{number:02d}", f"s{number - 1:02d}"
        stages |= {
            f"finetune@{name}": stage([f"data/raw/{name}", "data/models/pretrained"], [f"data/models/finetuned/{name}"], **{f"tasks.{name}.finetune": {"epochs": 3}}),
            f"extract@{name}": stage([f"data/models/finetuned/{name}"], [f"data/models/task_vectors/{name}"]),
            f"merge-step@{step}": stage([f"data/models/task_vectors/{name}", f"data/models/merged/{before}"], [f"data/models/merged/{step}"],
                                        **{f"steps.{step}.merge": {"alpha": 0.8}}),
            f"head-tune@{step}": stage([f"data/models/merged/{step}", f"data/models/heads/{before}"], [f"data/models/heads/{step}"]),
        }  # fmt: skip
        tasks.append(audit_document.Task(
            name=name, title="", description="", owner=HOSTILE if number == 1 else "ada", licence="" if number == 1 else "CC-BY-4.0", source="npz",
            origin="fine-tuned here", labels="fine-tuning, evaluation", step=step, base=0.2, finetuned=0.9,
            accuracy={f"s{later:02d}": 0.9 - 0.05 * later for later in range(number, count + 1)},
            data=audit_document.Data(path=f"data/raw/{name}", sha256=sha(name), md5="a" * 32, images={"labelled": 30, "unlabelled": 10, "test": 20}),
        ))  # fmt: skip
        steps.append(audit_document.Step(
            step=step, task=name, method="otmf", parameters={"alpha": 0.8}, acc=0.8, bwt=None if number == 1 else -0.05,
            saw={"pre_kind": "memory", "pre_images": 30, "post_images": 10, "labels": False, "test_images": 0},
            heads="aligned" if number > 1 else "frozen", aligned={name: 10} if number > 1 else {},
            changes={other: -0.05 for other in names[: number - 1]}, record=f"{number:06d}.json", sha256=sha(step),
        ))  # fmt: skip
        decision = statements.Decision(action="accepted" if number != 2 else "overridden", version=number, step=step, task=name, sha256=sha(step),
                                       by="gate" if number != 2 else "ada", reason="rules hold" if number != 2 else HOSTILE, at=AT)  # fmt: skip
        decisions.append(
            audit_document.Decided(
                record=f"{number:06d}.json",
                sha256=sha(number),
                signed_by=[] if number == 1 else ["b" * 64],
                decision=decision,
            )
        )
    return audit_document.Audit(**{
        "line": "shop", "version": count, "serves": "champion", "step": f"s{count:02d}", "sha256": sha("model"), "encoder": "ViT-B-32", "reads": "images", "commit": "c" * 40,
        "generated": AT, "deviations": ["1 of 3 records are unsigned: 000001.json", f"v2 was accepted against the gate: {HOSTILE}"],
        "checks_held": 79, "checks_broken": [], "not_covered": [f"notes {HOSTILE}"], "base": audit_document.Data(path="data/raw/pretrained", sha256=sha("base"), md5=None), "base_licence": "",
        "tasks": tasks, "steps": steps, "decisions": decisions, "stages": stages, "packages": {"otmf": "0.1.0+abc", "torch": "2.13"},
        "flow_run": "run", "runs": {"parent": "f" * 32}, "host": {"system": "Linux"}, "started": AT, "finished": AT, **changes,
    })  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("audit")
    files.write(document(), folder)
    return folder


def test_all_forms_are_written_and_nothing_else(written) -> None:
    assert sorted(path.name for path in written.iterdir()) == sorted(
        [files.PAGE, files.JSON, files.BOM, files.EVENTS, files.CARD]
    )


def test_json_is_admitted_by_the_published_schema(written) -> None:
    published = json.loads((ROOT / "docs/audit.schema.json").read_text(encoding="utf-8"))
    assert published == audit_document.schema(), "python -m flows.audit.document > docs/audit.schema.json"
    found = json.loads((written / files.JSON).read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(published).validate(found)
    assert found["$schema"] == audit_document.SCHEMA
    del found["commit"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(published).validate(found)


def test_bill_of_materials_names_model_data_experts_and_packages(written) -> None:
    found = json.loads((written / files.BOM).read_text(encoding="utf-8"))
    assert (found["bomFormat"], found["specVersion"]) == ("CycloneDX", "1.6")
    model = found["metadata"]["component"]
    assert (model["type"], model["hashes"][0]["content"]) == ("machine-learning-model", document().sha256)
    assert model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"][0] == {
        "type": "accuracy",
        "value": "0.7500",
        "slice": "task_1",
    }
    names = {component["name"] for component in found["components"]}
    assert {"data of base", "data of task_1", "expert on task_3", "torch"} <= names
    data = next(one for one in found["components"] if one["name"] == "data of task_2")
    assert data["licenses"] == [{"license": {"name": "CC-BY-4.0"}}]
    assert bill_of_materials.bom(document()) == bill_of_materials.bom(document()), "the same bytes"


def test_events_tell_each_stage_with_what_it_read_and_wrote(written) -> None:
    lines = (written / files.EVENTS).read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in lines]
    assert len(events) == 2 * len(document().stages)
    merge = next(one for one in events if one["job"]["name"] == "merge-step@s02" and one["eventType"] == "COMPLETE")
    assert {one["name"] for one in merge["inputs"]} == {"data/models/task_vectors/task_2", "data/models/merged/s01"}
    assert merge["outputs"][0]["facets"]["version"]["datasetVersion"] == f"sha256:{sha('data/models/merged/s02')}"
    begun = next(one for one in events if one["run"]["runId"] == merge["run"]["runId"] and one["eventType"] == "START")
    assert begun["job"] == merge["job"]


def test_events_go_to_a_server_where_one_is_set(monkeypatch) -> None:
    received: list[dict] = []

    class Keeper(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(201)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Keeper)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        assert openlineage.send(document(1)) == 0
        monkeypatch.setenv(openlineage.SERVER, f"http://127.0.0.1:{server.server_port}")
        assert openlineage.send(document(1)) == len(received) == 2 * len(document(1).stages)
    finally:
        server.shutdown()
        server.server_close()


def test_model_card_has_a_header_that_is_yaml(written) -> None:
    text = (written / files.CARD).read_text(encoding="utf-8")
    head, body = text.removeprefix("---\n").split("\n---\n", 1)
    found = YAML(typ="safe").load(head)
    assert found["datasets"] == ["task_1", "task_2", "task_3"]
    assert found["model-index"][0]["results"][2]["metrics"][0] == {"type": "accuracy", "value": 0.75}
    assert found["license_name"] == "CC-BY-4.0"
    assert "- 1 of 3 records are unsigned: 000001.json" in body


def test_page_is_self_contained_and_escapes_what_people_wrote(written) -> None:
    text = (written / files.PAGE).read_text(encoding="utf-8")
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert not re.search(r"""(src|href)=["'](?!#)|@import|url\((?!#)""", text), "nothing is loaded from elsewhere"
    assert text.index("Deviations") < text.index("Checks that hold"), "deviations come first"


def test_page_without_deviations_says_so() -> None:
    text = files.page(document(deviations=[]))
    assert "None: every record is signed" in text


@pytest.mark.browser
def test_page_reads_well_in_a_real_browser_and_on_paper(written, tmp_path) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs Chromium (Debian package chromium)")
    profile, url = f"--user-data-dir={tmp_path / 'profile'}", (written / files.PAGE).as_uri()
    dumped = subprocess.run(
        [chromium, *BROWSER, profile, "--dump-dom", url], capture_output=True, text=True, check=True, timeout=120
    ).stdout
    assert dumped.count("<rect") == 4 + 5 * 3, "a box for each content"
    assert "data/models/merged/s03 sha256 " in dumped
    assert dumped.count('marker-end="url(#tip)"') == 3 + 6 * 3, "an arrow from what was read to what was made of it"
    text = re.sub(r"\s+", " ", re.sub(r"<style.*?</style>|<[^>]+>", " ", dumped, flags=re.DOTALL))
    assert "Audit of shop v3" in text
    assert "1 of 3 records are unsigned: 000001.json" in text
    assert "task_1 20.0 90.0 85.0 80.0 75.0" in text, "accuracies over the steps"
    assert "task_1 -5.0 , task_2 -5.0" in text, "what the third merge did to the older tasks"
    assert "000002.json overridden v2 task_2 ada" in text

    picture = tmp_path / "page.png"
    subprocess.run(
        [chromium, *BROWSER, profile, "--window-size=1100,1400", f"--screenshot={picture}", url],
        capture_output=True,
        check=True,
        timeout=120,
    )
    import numpy as np
    from PIL import Image

    pixels = np.asarray(Image.open(picture).convert("RGB")).astype(int)
    red = (pixels[..., 0] - pixels[..., 1] > 8) & (pixels[..., 0] > 240)
    assert red[:500].sum() > 20_000, "deviations stand on top, in red"
    assert red[700:].sum() < red[:500].sum()

    paper = tmp_path / "page.pdf"
    subprocess.run(
        [chromium, *BROWSER, profile, "--no-pdf-header-footer", f"--print-to-pdf={paper}", url],
        capture_output=True,
        check=True,
        timeout=120,
    )
    pages = pypdf.PdfReader(paper).pages
    assert 1 < len(pages) <= 6
    assert all(float(page.mediabox.width) > float(page.mediabox.height) for page in pages), "landscape"
    printed = " ".join(" ".join(page.extract_text().split()) for page in pages)
    assert "Deviations" in pages[0].extract_text()
    assert "Who decided what, and why" in printed
    assert "f" * 32 in printed, "nothing is cut off on the right"


def test_differences_of_two_versions_are_named_by_kind() -> None:
    one, other = document(2), document(3, packages={"otmf": "0.1.0+def", "torch": "2.13"})
    found = {(change.kind, change.what): (change.before, change.after) for change in diff.between(one, other)}
    assert found[("data", "task_3")] == (None, sha("task_3")[:16])
    assert found[("code", "otmf")] == ("0.1.0+abc", "0.1.0+def")
    assert found[("order", "s03")] == (None, "task_3")
    assert found[("accuracy", "task_1")] == ("80.0", "75.0")
    assert not any(kind == "parameters" for kind, _ in found), "a new task's own are no change"
    assert list(diff.between(one, one)) == []
    changed = document(2)
    changed.stages["merge-step@s02"].parameters["steps.s02.merge"]["alpha"] = 0.5
    assert [(change.what, change.before, change.after) for change in diff.between(one, changed)] == [
        ("merge-step task_2 merge.alpha", "0.8", "0.5")
    ]


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ({"licence": "MIT", "parts": [{"name": "a"}]}, []),
        ({"parts": [{"name": "a", "licence": "MIT"}, {"name": "b"}]}, ["part b of the base"]),
        ({}, ["the base"]),
    ],
)
def test_data_without_a_stated_licence_is_a_deviation(base, expected) -> None:
    tasks = document(2).tasks
    said = collect._unlicensed(tasks, base)
    assert said == [f"no licence is stated for the data of {', '.join([*expected, 'task_1'])}"]
    assert collect._unlicensed(tasks[1:], {"licence": "MIT"}) == []


def test_page_says_which_inputs_heads_were_aligned_on(written) -> None:
    page = (written / files.PAGE).read_text(encoding="utf-8")
    assert '<td class="left">frozen</td>' in page
    assert '<td class="left">aligned without labels: <span class="nowrap">task_2 10</span></td>' in page
