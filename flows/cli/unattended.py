"""Commands for tasks that arrive without a person: submit, withdraw, deploy, worker."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.console import ByOption, LineOption, ReasonOption, WaitOption, clear_failures, me, out

app = typer.Typer()


@app.command()
def submit(
    card: Annotated[Path, typer.Argument(help="A task card (YAML).")],
    line: LineOption = Path(),
) -> None:
    """Hand in a task to be onboarded by a worker: it gets its place in the order, and an event goes to the Prefect server."""
    from flows.line import workspace
    from flows.services import prefect_server

    with clear_failures():
        found = workspace.open_line(line)
        with prefect_server.reached(found):
            from flows.unattended import arrival, inbox

            name = inbox.deliver(found, card)
            before = inbox.outcome(found, name)
            inbox.accept(found, name)
            arrival.announce(workspace.params(found).line, name)
        said = (
            f", which {'was onboarded' if before[0] == 'arrived' else 'was refused'} before ({before[1][:200]})"
            if before
            else ""
        )
        out.print(f"Submitted as {name}{said}; `otmf status` shows what becomes of it")


@app.command()
def withdraw(
    submission: Annotated[
        str, typer.Argument(help="Its name as `otmf status` shows it, or the task's if only one waits.")
    ],
    reason: ReasonOption,
    line: LineOption = Path(),
    by: ByOption = None,
    wait: WaitOption = 0,
) -> None:
    """Take a waiting submission out of the order; it is kept as refused, with your reason, and can be submitted again."""
    from flows.line import workspace
    from flows.unattended import withdrawal

    with clear_failures():
        name = withdrawal.withdraw(workspace.open_line(line), submission, by=by, reason=reason, wait=wait)
        out.print(f"{name} is withdrawn: it is not onboarded unless somebody submits it again")


@app.command()
def deploy(
    line: LineOption = Path(),
    sweep: Annotated[
        int | None, typer.Option(min=5, help="Seconds between looks at the inbox; as prefect.yaml says otherwise.")
    ] = None,
    retrain_cron: Annotated[
        str | None,
        typer.Option(help="When to retrain what changed, such as '0 3 * * *'; as prefect.yaml says otherwise."),
    ] = None,
    agents: Annotated[
        bool,
        typer.Option("--agents", help="Hand heavy stages to workers of the pool gpu, each with a clone of its own."),
    ] = False,
    notify: Annotated[
        str | None, typer.Option(help="Address of a webhook to call for each run that fails or is refused.")
    ] = None,
) -> None:
    """Register the line on the Prefect server of PREFECT_API_URL: work pools, the deployments of its prefect.yaml, automations."""
    from flows.line import workspace
    from flows.services import prefect_server
    from flows.versions import unfinished

    with clear_failures():
        found = workspace.open_line(line)
        with prefect_server.reached(found):
            from flows.unattended import deploy as deployment

            names = deployment.register(
                found, sweep_seconds=sweep, retrain_cron=retrain_cron, with_agents=agents, notify=notify
            )
        unfinished.complete(found, out.print)
        out.print(f"Registered: {', '.join(names)}")
        out.print(f"Start a worker with: {me()} worker")
        if agents:
            out.print(f"and on each agent: OTMF_LINE=ITS_CLONE {me()} worker --pool gpu")


@app.command()
def worker(
    pool: Annotated[str, typer.Option(help="Work pool: cpu where the line lies, gpu on an agent.")] = "cpu",
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Runs at a time; one on an agent, the number of cores and at least three elsewhere."),
    ] = None,
) -> None:
    """Start a Prefect worker with a warm interpreter for its stages (seconds less for each); ends with ctrl-C or SIGTERM."""
    from flows.programs import warm
    from flows.services import prefect_server

    with clear_failures():
        prefect_server.require_named()
        with warm.interpreter():
            code = prefect_server.work(pool, limit)
    raise typer.Exit(code)
