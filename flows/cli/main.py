"""The `otmf` command: init, onboard, retrain, retire, promote, rollback, status, import, predict."""

from __future__ import annotations

import atexit
import gc
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from flows.cli.audit import app as lineage_app
from flows.cli.console import ByOption, LineOption, ReasonOption, WaitOption, clear_failures, me, out, plain_lines
from flows.cli.serving import app as serving_app
from flows.cli.studies import app as studies_app
from flows.cli.unattended import app as unattended_app
from otmf import __version__
from otmf.runtime import environment, errors

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Continual model merging by optimal transport: one shared encoder, task after task merged into it.\n\n"
    "Start with `otmf init my_line`, then `otmf onboard CARD --line my_line` for each task; `otmf demo` shows it all.",
)
for part in (unattended_app, studies_app, lineage_app, serving_app):
    app.add_typer(part)
OverrideOption = Annotated[
    str | None, typer.Option(help="Your reason to accept the model whatever the gate says; kept in the history.")
]


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    name: Annotated[str | None, typer.Option(help="Name of the line and of its MLflow experiment.")] = None,
    base: Annotated[
        Path | None,
        typer.Option(
            help="Card of the base (where pretrained weights come from); an embedded mixture of pictures otherwise."
        ),
    ] = None,
    params: Annotated[Path | None, typer.Option(help="A params.yaml to start from.")] = None,
    backbone: Annotated[
        Path | None, typer.Option(help="JSON file of an encoder of your own, in open_clip's form.")
    ] = None,
) -> None:
    """Make a new line of models: a git and DVC folder with its parameters and its base."""
    from flows.line import workspace

    with clear_failures():
        workspace.create(folder, name=name, base=base, params=params, backbone=backbone)
        out.print(f"Line of models in {folder}. Next: {me()} onboard CARD --line {folder}")


@app.command()
def onboard(
    card: Annotated[Path, typer.Argument(help="A task card (YAML).")],
    line: LineOption = Path(),
    wait: WaitOption = 0,
    override: OverrideOption = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Train a known task again where its card or data have changed.")
    ] = False,
) -> None:
    """Onboard one task: fine-tune (or take its checkpoint), merge it into the line's model, evaluate, ask the gate."""
    from flows.changes import admission
    from flows.line import landing, workspace
    from flows.programs import warm
    from flows.services import prefect_server
    from flows.versions import unfinished

    with clear_failures():
        found_line, found_card = admission.open_all(line, card)
        # refused or waited for before anything else is started
        with (
            workspace.locked(found_line, patience=wait, name=workspace.WORK),
            landing.turn(found_line, patience=wait, say=out.print),
        ):
            admission.require_ready(found_line, found_card, replace=replace)
        unfinished.complete(found_line, out.print)
        with warm.interpreter(), admission.gathered(found_line, found_card, card) as gathered:
            if gathered is None:
                step, _ = admission.place(workspace.params(found_line), found_card)
                out.print(
                    f"{found_card.name} is onboarded already as {step}, with the same card and data: nothing to do"
                )
                return
            with prefect_server.connected(found_line):
                from flows.changes.onboard import onboard as flow

                found = flow(str(line), str(card), wait, override, replace, gathered)
        if not found.outcomes:  # by somebody else, in between
            out.print(f"{found.task} is onboarded already as {found.step}, with the same card and data: nothing to do")
            return
        change = "" if found.bwt is None else f", backward transfer {100 * found.bwt:+.1f} points"
        out.print(
            f"{found.task} onboarded as {found.step}, version v{found.version}: accuracy {100 * found.accuracy:.1f} % on {found.task}, "
            f"where its fine-tuned model has {100 * found.finetuned:.1f} %; {100 * found.acc:.1f} % on average over all tasks{change}"
        )


@app.command()
def retrain(
    tasks: Annotated[list[str] | None, typer.Argument(metavar="[TASK...]", help="Tasks to train again.")] = None,
    changed: Annotated[
        bool, typer.Option("--changed", help="Whatever DVC calls stale; so it is without a task.")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="Everything, the base included.")] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print what would run, why and for how long; run nothing.")
    ] = False,
    line: LineOption = Path(),
    wait: WaitOption = 0,
    override: OverrideOption = None,
) -> None:
    """Make stale or named tasks again, from the earliest changed step on; the gate decides whether the result serves."""
    from flows.changes import retrain as retraining
    from flows.line import workspace
    from flows.programs import warm
    from flows.services import prefect_server

    with clear_failures():
        if sum((bool(tasks), changed, everything)) > 1:
            raise workspace.WorkspaceError("expected one of TASK, --changed and --all; received several; leave one")
        found = workspace.open_line(line)
        wanted = retraining.wanted(found, tasks or [], everything=everything)
        if plan or not wanted:
            _print_plan(found, wanted)
            return
        _require_free(found, wait)
        with warm.interpreter(), prefect_server.connected(found):
            done = retraining.retrain(str(found.root), tasks, everything, wait, override)
        _print_retrained(done)


@app.command()
def retire(
    task: Annotated[str, typer.Argument(help="Task to take out.")],
    reason: Annotated[str, typer.Option(help="Why; kept in the commit.")],
    line: LineOption = Path(),
    wait: WaitOption = 0,
) -> None:
    """Take a task out of the model: every later step is merged anew without it."""
    from flows.changes import retrain as retraining
    from flows.line import workspace
    from flows.programs import warm
    from flows.services import prefect_server

    with clear_failures():
        found = workspace.open_line(line)
        _require_free(found, wait)
        retraining.require_retirable(found, task)
        with warm.interpreter(), prefect_server.connected(found):
            done = retraining.retire(str(found.root), task, reason, wait)
        _print_retrained(done)


@app.command()
def promote(
    task: Annotated[str, typer.Argument(help="Task that the gate refused.")],
    reason: ReasonOption,
    line: LineOption = Path(),
    by: ByOption = None,
    wait: WaitOption = 0,
) -> None:
    """Accept, against the gate, the refused model of a task."""
    from flows.changes import decisions
    from flows.line import workspace

    with clear_failures():
        entry = decisions.promote(workspace.open_line(line), task, by=by, reason=reason, log=out.print, wait=wait)
        out.print(f"{task} accepted: v{entry.version} is the champion")


@app.command()
def rollback(
    reason: ReasonOption,
    version: Annotated[
        str | None,
        typer.Argument(
            help="Version to return to, such as v3; otherwise the one that served before (after a rollback, the one that was left)."
        ),
    ] = None,
    line: LineOption = Path(),
    by: ByOption = None,
    wait: WaitOption = 0,
) -> None:
    """Let an earlier version serve again. Nothing is rewritten: the history gets one more entry."""
    from flows.changes import decisions
    from flows.line import workspace
    from flows.studies import status as line_status

    with clear_failures():
        found = workspace.open_line(line)
        entry = decisions.roll_back(found, version, by=by, reason=reason, log=out.print, wait=wait)
        out.print(f"v{entry.version} ({entry.step}) is the champion again")
        for said in line_status.overtaking(found):
            out.print(said)


@app.command()
def status(
    line: LineOption = Path(),
    watch: Annotated[bool, typer.Option("--watch", help="Show it anew every two seconds, until ctrl-C.")] = False,
) -> None:
    """Show the tasks and steps of a line, what waits and runs, which version serves, refused attempts, what is not up to date."""
    from flows.dvc import staleness
    from flows.line import branch, workspace
    from flows.services import tracking
    from flows.studies import status as line_status
    from flows.versions import unfinished

    with clear_failures():
        found = workspace.open_line(line)
        unfinished.complete(found, out.print)
        if watch:
            line_status.watch(found, out)
            return
        out.print(line_status.shown(found))
        if not branch.born(found.root):
            return
        if not workspace.params(found).steps and line_status.overtaking(found):
            return
        if not workspace.params(found).steps:
            out.print(f"Next: {me()} onboard CARD --line {line} (the first also makes the base)")
            return
        stale = staleness.reasons(found)
        out.print("Everything is up to date." if not stale else f"Not up to date: {', '.join(stale)}")
        out.print(f"Tracking: {me('mlflow')} ui --backend-store-uri {errors.without_secrets(tracking.uri(found))}")


@app.command("import")
def import_(
    source: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="A file or folder of weights, or an index of several files.")
    ],
    target: Annotated[
        Path, typer.Argument(metavar="FILE", help="A new file that ends in .safetensors, for a card's checkpoint.")
    ],
    line: LineOption = Path(),
    missing: Annotated[
        list[str] | None,
        typer.Option(help="Pattern of the encoder's names that may be missing: they stay as in the base."),
    ] = None,
    ignored: Annotated[list[str] | None, typer.Option(help="Pattern of the checkpoint's names to leave out.")] = None,
) -> None:
    """Read a fine-tuned encoder (open_clip, Hugging Face, shards, pickles, LoRA), check it against the line's, write it as the line names it."""
    from flows.changes import importing
    from flows.line import workspace

    with clear_failures():
        found = workspace.open_line(line)
        for said in importing.bring(found, source, target, missing=missing or (), ignored=ignored or ()):
            out.print(said)
        out.print(f"written to {target}; name it in a card: checkpoint: {{path: {target.name}}}")


@app.command()
def predict(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Image files; for an encoder of texts, files of one text each."),
    ],
    task: Annotated[str, typer.Option(help="Task whose classes to choose from.")],
    line: LineOption = Path(),
) -> None:
    """Print class and probability of images or texts, from the version that serves (the champion)."""
    from flows.changes import decisions
    from flows.line import workspace
    from flows.programs import process

    with clear_failures():
        newest = workspace.open_line(line)
        found = decisions.serving(newest)
        params = workspace.params(found)
        if task not in params.tasks and task in workspace.params(newest).tasks:
            raise workspace.WorkspaceError(
                f"expected a task of the version that serves ({', '.join(params.tasks)}); received {task!r}, which only a "
                "newer version has; see `otmf status`"
            )
        if task not in params.tasks:
            raise workspace.WorkspaceError(
                f"expected a task of this line ({', '.join(params.tasks) or 'none yet'}); received {task!r}; "
                "choose one of them"
            )
        names = [str(path.resolve()) for path in files]
        process.pump(
            [sys.executable, "-m", "stages", "predict", task, *names],
            folder=found.root,
            log=lambda text: None if text.startswith("otmf: ") else typer.echo(plain_lines(text)),
        )


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        out.print(f"otmf {__version__}")
        raise typer.Exit


def main() -> None:
    environment.settle()
    gc.set_threshold(50_000, 20, 100)  # what Prefect and MLflow import stays: it is walked less often,
    atexit.register(gc.freeze)  # and not once more when the command ends
    app()


def _require_free(line, wait: float) -> None:
    """Refuses, or waits for, a line that another change holds, before anything else is started; completes what is open."""
    from flows.line import landing, workspace
    from flows.versions import unfinished

    with (
        workspace.locked(line, patience=wait, name=workspace.WORK),
        landing.turn(line, patience=wait, say=out.print),
    ):
        pass
    unfinished.complete(line, out.print)


def _print_plan(line, wanted: dict[str, str]) -> None:
    from flows.changes import plan
    from flows.line import workspace
    from flows.services import tracking

    if not wanted:
        out.print("Everything is up to date: nothing to run.")
        return
    steps = plan.timed(wanted, tracking.prepare(line, workspace.params(line).line))
    table = Table(title=f"{len(steps)} stages would run")
    for column in ("stage", "why", "minutes"):
        table.add_column(column, justify="right" if column == "minutes" else "left")
    for step in steps:
        table.add_row(step.stage, step.why, "unknown" if step.seconds is None else f"{step.seconds / 60:.1f}")
    out.print(table)
    known = [step.seconds for step in steps if step.seconds is not None]
    out.print(
        f"About {sum(known) / 60:.1f} minutes, by the last run of each; {len(steps) - len(known)} never ran here."
    )
    if changed := workspace.uncommitted(line):
        out.print(f"Commit {', '.join(changed[:3])} with git first: retraining starts from what is committed.")


def _print_retrained(done) -> None:
    if done is None:
        out.print("Everything is up to date: nothing to run.")
        return
    ran = sum(outcome == "ran" for outcome in done.outcomes.values())
    change = "" if done.bwt is None else f", backward transfer {100 * done.bwt:+.1f} points"
    out.print(
        f"v{done.version} is the champion: {ran} stages ran, {100 * done.acc:.1f} % on average over all tasks{change}"
    )


if __name__ == "__main__":
    main()
