"""Commands that hand a version out: serve, trace, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.cli.console import LineOption, clear_failures, out, plain

app = typer.Typer()


@app.command()
def serve(
    line: LineOption = Path(),
    host: Annotated[
        str, typer.Option(help="Address to listen on; the loopback interface unless told otherwise.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8080,
    largest_mib: Annotated[float, typer.Option(min=0.001, help="Largest body of a request, MiB.")] = 16,
    most: Annotated[int, typer.Option(min=1, help="Most images or texts in a request.")] = 64,
    most_megapixels: Annotated[
        float, typer.Option(min=0.001, help="Most pixels of all images in a request together, millions.")
    ] = 100,
    seconds: Annotated[
        float, typer.Option(min=0.1, help="Longest time of a request, from its head to the end of its answer.")
    ] = 30,
    head_seconds: Annotated[
        float,
        typer.Option(min=0.1, help="Longest time for the head of a request to come, and for an answer to be taken."),
    ] = 10,
    connections: Annotated[
        int, typer.Option(min=1, help="Most connections and requests at a time; /health and /ready have a reserve.")
    ] = 256,
    held_mib: Annotated[float, typer.Option(min=0.001, help="Most of all bodies held at a time, MiB.")] = 256,
    grace: Annotated[
        float, typer.Option(min=0.1, help="Seconds that requests under way get to end in after SIGTERM or ctrl-C.")
    ] = 25,
    linger: Annotated[
        float, typer.Option(min=0, help="Seconds of those in which new requests are still taken after SIGTERM.")
    ] = 2,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            help="A further name by which it may be asked, such as a proxy's; * for any. Can be given several times."
        ),
    ] = None,
) -> None:
    """Answer HTTP with the champion's predictions; follows promotions and rollbacks without dropping a request."""
    from flows.line import workspace
    from flows.serving import serve as serving

    limits = {
        "largest_mib": largest_mib, "most": most, "most_megapixels": most_megapixels, "seconds": seconds, "head_seconds": head_seconds,
        "connections": connections, "held_mib": held_mib, "grace": grace, "linger": linger,
        "hosts": [*({host} - serving.ANY), *(allow_host or [])],
    }  # fmt: skip
    with clear_failures():
        found = workspace.open_line(line)
        code = serving.serve(found, host=host, port=port, limits=limits, say=out.print)
    raise typer.Exit(code)


@app.command()
def trace(
    prediction_id: Annotated[str, typer.Argument(help="As the answer named it.")],
    line: LineOption = Path(),
) -> None:
    """From a served prediction to the version that made it, and its record in the ledger."""
    from flows.line import workspace
    from flows.serving import serve as serving

    with clear_failures():
        found, record = serving.trace(workspace.open_line(line), prediction_id)
        decision = record.statement.decision
        reads = "texts" if "texts" in found else "images"
        for position, (given, result) in enumerate(zip(found[reads], found["results"], strict=True), start=1):
            out.print(
                plain(
                    f"{reads[:-1]} {position}, sha256 {given}: {result['class']}, {result['probability']:.3f}, of {found['task']}, {found['at']}"
                )
            )
        out.print(plain(f"v{decision.version} ({decision.step}), encoder sha256 {decision.sha256}"))
        out.print(
            plain(
                f"record {record.name}, sha256 {record.sha256}: {decision.action} by {decision.by}: {decision.reason}"
            )
        )
        out.print(f"Next: otmf verify v{decision.version}, otmf audit v{decision.version}")


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="A new folder.")],
    version: Annotated[str | None, typer.Option(help="Such as v3; the champion otherwise.")] = None,
    line: LineOption = Path(),
    onnx: Annotated[bool, typer.Option("--onnx", help="Also the encoder as ONNX (needs otmf[onnx]).")] = False,
    hugging_face: Annotated[
        bool,
        typer.Option(
            "--hugging-face", help="Also as transformers loads a CLIP vision model; encoders of texts always are."
        ),
    ] = False,
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16"],
        typer.Option(help="Of the encoder's weights; what rounding changes is said."),
    ] = "float32",
    shard_mb: Annotated[
        int, typer.Option(min=1, help="Megabytes of a file for transformers, beyond which there are several.")
    ] = 5000,
) -> None:
    """Write a version for whoever does not have otmf: weights for open_clip or transformers, heads, labels, card, a script that classifies."""
    from flows.line import workspace
    from flows.serving import export as exporting
    from flows.versions import history

    with clear_failures():
        found = workspace.open_line(line)
        number = history.chosen(found, version)
        beside = [name for name, wanted in (("onnx", onnx), ("hugging-face", hugging_face)) if wanted]
        for said in exporting.export(found, number, folder, dtype=dtype, largest=shard_mb * 1_000_000, beside=beside):
            out.print(said)
        out.print(f"v{number} in {folder}; try it with: python {folder.name}/classify.py TASK FILE...")
