"""Commands that account for a line: keys, verify, replay, audit, diff."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.console import ByOption, LineOption, ReasonOption, WaitOption, bad, clear_failures, out, plain

if TYPE_CHECKING:
    from datetime import datetime

    from flows.audit.document import Audit
    from otmf.runtime import layout

app = typer.Typer()
KeyOption = Annotated[
    list[Path] | None, typer.Option(help="Public key you trust (PEM); those beside this line's private keys otherwise.")
]
keys_app = typer.Typer(no_args_is_help=True, help="Keys that sign the ledger.")
app.add_typer(keys_app, name="keys")


@keys_app.command()
def new(reason: ReasonOption, line: LineOption = Path(), by: ByOption = None, wait: WaitOption = 0) -> None:
    """Make a key that signs every record from here on; the key so far signs for it. The private half stays here."""
    from flows.line import workspace
    from flows.versions import keyring

    with clear_failures():
        found = workspace.open_line(line)
        key = keyring.new(found, by=by, reason=reason, log=out.print, wait=wait)
        public = keyring.path(found, key.keyid).with_suffix(".pub")
        out.print(f"The ledger is signed with {key.keyid[:16]} from here on; give auditors its public half, {public}")


@keys_app.command()
def show(line: LineOption = Path()) -> None:
    """Show which key signs the ledger, and whether its private half is here."""
    from flows.line import workspace
    from flows.versions import keyring
    from otmf.provenance import ledger

    with clear_failures():
        found = workspace.open_line(line)
        key = ledger.in_force(ledger.read(found.root))
        if key is None:
            out.print("The ledger is unsigned; sign it from here on with: otmf keys new --reason ...")
            return
        private = keyring.path(found, key.keyid)
        out.print(
            f"{key.keyid[:16]} signs the ledger; its private half is {'at' if private.exists() else 'not at'} {private}"
        )


@app.command()
def verify(
    versions: Annotated[
        list[str] | None, typer.Argument(metavar="[VERSION...]", help="Such as v3; all otherwise.")
    ] = None,
    line: LineOption = Path(),
    key: KeyOption = None,
    unsigned: Annotated[bool, typer.Option("--unsigned", help="Take records that nobody signed as they are.")] = False,
    without_registry: Annotated[bool, typer.Option("--without-registry", help="Do not ask MLflow's registry.")] = False,
    bundle: Annotated[
        Path | None, typer.Option(help="New folder for the records and files of one version, to be verified elsewhere.")
    ] = None,
) -> None:
    """Check every hash, signature and link from the models to the raw data; exit code 0 only if all hold."""
    from flows.line import workspace
    from flows.verify import bundle as bundling
    from flows.verify import verify as verification
    from flows.versions import keyring
    from flows.versions.history import number
    from otmf.provenance import ledger

    with clear_failures():
        found = workspace.open_line(line)
        wanted = [number(one) for one in versions or []]
        if bundle is not None and (len(wanted) != 1 or bundle.exists()):
            raise workspace.WorkspaceError(
                f"expected one version to bundle and a new folder; received {len(wanted)} and {bundle}; name a version such as v3, and another folder"
            )
        trusted = keyring.trusted(found, key or [])
        for one in () if key else trusted:
            out.print(f"Trusting the key {one.keyid[:16]}, which lies with this line; name those you trust with --key")
        checks = verification.verify(
            found, wanted, trusted, unsigned=unsigned, demanded=bool(key), with_registry=not without_registry
        )
        held, broken, troubles, uncovered = 0, 0, [], []
        for check in checks:
            if check.uncovered:
                uncovered.append(plain(check.about))
                continue
            held, broken = held + (not check.trouble), broken + bool(check.trouble)
            if check.trouble:
                troubles.append(f"{check.about}: {check.trouble}")
            out.print(bad("BAD", f"{check.about}: {check.trouble}") if check.trouble else f"ok  {plain(check.about)}")
        if uncovered:
            out.print(f"not covered: {', '.join(uncovered)}")
        out.print(f"{held} checks hold, {broken} do not" + (":" if troubles and held > len(troubles) else ""))
        for said in troubles[:10] if held > len(troubles) else ():
            out.print(f"  {plain(said)}")
        if bundle is not None and broken:
            out.print(f"No bundle was written to {bundle}: what does not hold is not passed on.")
        if bundle is not None and not broken:
            names = bundling.write(found, wanted[0], bundle)
            command = bundling.command(f"{bundle.name}/verify.py", ledger.read(found.root))
            out.print(f"Bundle: {bundle}, {len(names)} files; check it elsewhere with: {command}")
    if broken:
        raise typer.Exit(1)


@app.command()
def replay(
    version: Annotated[str, typer.Argument(help="Such as v3.")],
    step: Annotated[str | None, typer.Option(help="Only the stages of this step, such as s03.")] = None,
    line: LineOption = Path(),
    tolerance: Annotated[
        float,
        typer.Option(help="Largest relative difference that passes where processor, packages or code are others."),
    ] = 1e-3,
) -> None:
    """Make a version again in a temporary clone, from its recorded commit and parameters, and compare the bytes."""
    from rich.table import Table

    from flows.line import workspace
    from flows.programs import warm
    from flows.verify import replay as replaying
    from flows.versions.history import number

    with clear_failures():
        found, wanted = workspace.open_line(line), number(version)
        others = replaying.surroundings(found, wanted)
        for said in others:
            out.print(f"not as it was made: {said}")
        table, broken = Table(title=f"{version}, made again"), 0
        for column in ("stage", "output", "bytes"):
            table.add_column(column)
        with warm.interpreter():
            for one in replaying.replay(found, wanted, step, log=out.print):
                passes = one.same or (bool(others) and one.apart <= tolerance)
                broken += not passes
                said = "the same" if one.same else f"other, apart by {one.apart:.2g}" + ("" if passes else ": BAD")
                table.add_row(one.stage, one.path, said)
        out.print(table)
        out.print(
            f"{table.row_count - broken} outputs as recorded, {broken} not"
            + (f" (others may differ by {tolerance:g}, as this is not where it was made)" if others else "")
        )
    if broken:
        raise typer.Exit(1)


@app.command()
def audit(
    version: Annotated[str | None, typer.Argument(help="Such as v3; the champion otherwise.")] = None,
    line: LineOption = Path(),
    output: Annotated[
        Path | None, typer.Option(help="Folder to write into; audit-VERSION in the line's private folder otherwise.")
    ] = None,
    key: KeyOption = None,
    without_registry: Annotated[bool, typer.Option("--without-registry", help="Do not ask MLflow's registry.")] = False,
) -> None:
    """Verify a version and write its audit: page, JSON, CycloneDX bill of materials, OpenLineage events, model card."""
    from datetime import UTC, datetime

    from flows.audit import files, openlineage
    from flows.line import workspace

    with clear_failures():
        found = workspace.open_line(line)
        made = _audited(found, version, key or [], with_registry=not without_registry, at=datetime.now(UTC))
        folder = output or found.private / f"audit-v{made.version}"
        files.write(made, folder)
        sent = openlineage.send(made)
        for said in made.deviations:
            out.print(bad("deviation", said))
        out.print(
            f"{made.checks_held} checks hold, {len(made.checks_broken)} do not; audit of v{made.version}: {folder / files.PAGE}"
        )
        if sent:
            out.print(f"{sent} events sent to the OpenLineage server")
    if made.checks_broken:
        raise typer.Exit(1)


@app.command()
def diff(
    before: Annotated[str, typer.Argument(help="Such as v2.")],
    after: Annotated[str, typer.Argument(help="Such as v3.")],
    line: LineOption = Path(),
) -> None:
    """Show what changed between two versions: data, licences, code, parameters, order, accuracy."""
    from datetime import UTC, datetime

    from rich.table import Table

    from flows.audit import collect as auditing
    from flows.audit import diff as version_diff
    from flows.line import workspace
    from flows.versions.history import number

    with clear_failures():
        found = workspace.open_line(line)
        one, other = (auditing.audit(found, number(name), [], at=datetime.now(UTC)) for name in (before, after))
        table = Table(title=f"{before} and {after} of {one.line}")
        for column in ("kind", "what", before, after):
            table.add_column(column)
        for change in version_diff.between(one, other):
            table.add_row(change.kind, plain(change.what), plain(change.before or "-"), plain(change.after or "-"))
        out.print(table if table.row_count else "The same data, code, parameters and accuracies.")


def _audited(line: layout.Layout, version: str | None, keys: list[Path], *, with_registry: bool, at: datetime) -> Audit:
    from flows.audit import collect as auditing
    from flows.verify import verify as verification
    from flows.versions import history as version_history
    from flows.versions import keyring

    wanted = version_history.chosen(line, version)
    trusted = keyring.trusted(line, keys)
    checks = list(
        verification.verify(line, [wanted], trusted, unsigned=True, demanded=bool(keys), with_registry=with_registry)
    )
    return auditing.audit(line, wanted, checks, at=at)
