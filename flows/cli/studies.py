"""Commands that show and compare: report, compare, methods, bench, reproduce, demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.console import LineOption, clear_failures, out

app = typer.Typer()


@app.command()
def report(
    line: LineOption = Path(),
    output: Annotated[
        Path | None,
        typer.Option(help="File to write, HTML or (ending in .md) Markdown; report.html in the line otherwise."),
    ] = None,
) -> None:
    """Write one self-contained HTML page: accuracies, curves, masks, methods, what each merge saw, versions."""
    from flows.line import workspace
    from flows.studies import report as pages

    with clear_failures():
        found = workspace.open_line(line)
        target = output or found.root / "report.html"
        pages.write(found, target)
        out.print(f"Report: {target}")


@app.command()
def compare(
    line: LineOption = Path(),
    orders: Annotated[int, typer.Option(min=1, max=10, help="Number of task orders, seeds 42, 43, ...")] = 3,
    trained_orders: Annotated[
        int | None,
        typer.Option(min=1, max=10, help="Of them, for methods that train masks, which take long; all otherwise."),
    ] = None,
) -> None:
    """Compare the presets with three other methods over several task orders on the line's experts; print and keep the table (bench: any method).

    `otmf_default` and `otmf_paper` are the presets; `otmf_frozen_heads` is the default with every head as its expert left it, so that methods
    which know no aligned heads compare with it. The others are `running_average`, `exponential_average`, `task_arithmetic` and `wudi`.
    """
    from flows.line import workspace
    from flows.programs import warm
    from flows.studies import compare as comparison

    with clear_failures(), warm.interpreter():
        found = workspace.open_line(line)
        comparison.run(found, orders=orders, trained=trained_orders, log=out.print)
        out.print(comparison.table(found))


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="One of them: what it does and its settings mean.")] = None,
) -> None:
    """List the merge methods: where they were published, what their merges see, their settings and what those are by default."""
    from flows.studies import methods as method_list

    with clear_failures():
        out.print(method_list.table() if name is None else method_list.one(name))


@app.command()
def bench(
    config: Annotated[
        Path, typer.Argument(help="YAML: the line, its tasks, orders, methods, what merges may see (docs/bench.md).")
    ],
    results: Annotated[
        Path | None, typer.Option(help="Folder of rows and tables; named after CONFIG otherwise.")
    ] = None,
    line: Annotated[
        Path | None, typer.Option(help="Folder of the line; the one that CONFIG names otherwise, or this one.")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Only print the runs and the minutes they may take.")] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes of this machine; one for each core otherwise.")
    ] = None,
    cluster: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler to run on instead, such as tcp://HOST:8786.")
    ] = None,
) -> None:
    """Compare merge methods as a file says: rows in parquet, tables in Markdown and HTML; an earlier run there goes on."""
    from flows.bench import plan as planning
    from flows.bench import run as running

    with clear_failures("the line is as it was, rows of runs that ended are kept; the same command goes on"):
        found = planning.plan(config, results, line)
        if plan:
            out.print(planning.table(found, workers))
            out.print(planning.summary(found, workers))
            return
        folder = running.run(found, workers=workers, cluster=cluster)
        out.print((folder / "tables.md").read_text(encoding="utf-8"))
        out.print(f"Rows and tables: {folder}")


@app.command()
def reproduce(
    recipe: Annotated[str, typer.Argument(help="Such as paper-vit-b-32; or a file of your own, as FILE.yaml-MODEL.")],
    folder: Annotated[Path, typer.Argument(help="Folder of the line and the tables; an earlier run there goes on.")],
    data: Annotated[
        Path | None, typer.Option(help="Folder of the data sets; what torchvision may download is put there.")
    ] = None,
    orders: Annotated[
        int | None, typer.Option(min=1, max=10, help="Number of task orders; the recipe's otherwise.")
    ] = None,
    tasks: Annotated[int | None, typer.Option(min=1, help="Only the first so many tasks.")] = None,
) -> None:
    """Follow a published protocol: fine-tune each task, merge in several orders by every method, print tables like the paper's."""
    from flows.studies import reproduce as protocol

    with clear_failures():
        protocol.run(recipe, folder, out, data=data, orders=orders, tasks=tasks)


@app.command()
def demo(folder: Annotated[Path, typer.Argument(help="Folder of the demo's line.")] = Path("demo")) -> None:
    """Run the main job on embedded data: a base, five tasks arriving one by one, a table of methods, a report."""
    from flows.studies import demo as demonstration

    with clear_failures():
        demonstration.run(folder, out)
