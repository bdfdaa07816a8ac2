"""A warm interpreter: one process that has DVC imported and forks itself for each DVC that a flow starts (`python -m
stages.warm.dvc`), and one that has torch and the rest and forks itself for each stage that DVC starts.

The second is the first's parent, so that DVC need not wait until torch is there. DVC still starts `python -m stages NAME
KEY` as its own process, which only hands arguments, folder, environment and its output streams over a Unix socket and waits
for the exit code; so every guarantee of DVC's stands. The fork happens before any thread of a numeric library exists. What is
forked dies with the process that asked for it, and all die with the process that started the server (its standard input
closes).
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import selectors
import signal
import socket
import sys

from otmf.runtime import processes
from stages.warm import params_cache

DVC = "dvc"
STAGES = ("mlflow", "mlflow.store.tracking.sqlalchemy_store", "torch", "otmf.finetuning", "otmf.merging.mask_training", "otmf.methods", "stages.context.run",
          "stages.context.tracking", "stages.pretrained", "stages.finetune", "stages.extract", "stages.merge_step", "stages.head_tune",
          "stages.evaluate")  # fmt: skip
_LENGTH = 8


def forward(path: str, arguments: list[str]) -> int | None:
    """Runs a stage, or DVC, in the warm interpreter at a socket; its exit code, or None where no interpreter answers.

    Asked to end, it ends once what was forked for it has ended.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        try:
            connection.connect(_door(path, arguments[0]))
            answer = _ask(connection, arguments)
        except OSError:  # none is there, or it ended before it had read the request
            return None
        except KeyboardInterrupt:
            _withdraw(connection)
            print(
                f"otmf: {arguments[0]}: interrupted; nothing of it was kept; run it again", file=sys.stderr, flush=True
            )
            return 130
        except SystemExit:
            _withdraw(connection)
            raise
        finally:
            signal.signal(signal.SIGTERM, previous)
        return int(answer) if answer else 1


def _ask(connection: socket.socket, arguments: list[str]) -> bytes:
    request = json.dumps({"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}).encode()
    socket.send_fds(connection, [len(request).to_bytes(_LENGTH, "big")], [1, 2])
    connection.sendall(request)
    return connection.recv(16)


def _withdraw(connection: socket.socket) -> None:
    """Takes a request back, and waits until what it had started has ended."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
        connection.recv(16)


def _door(path: str, name: str) -> str:
    return f"{path}.{DVC}" if name == DVC else path


def serve(path: str) -> None:
    """Answers at two sockets, for DVC and for stages, until standard input closes."""
    for_dvc, for_stages = _listening(_door(path, DVC)), _listening(path)
    _preload_dvc()
    light = os.fork()
    if light == 0:
        for_stages.close()
        try:
            _answer(for_dvc)
        finally:
            os._exit(0)
    for_dvc.close()
    if _preload_stages():
        _answer(for_stages)
    os.waitpid(light, 0)


def _listening(door: str) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(door)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    previous = os.umask(0o177)
    listener.bind(door)
    os.umask(previous)
    listener.listen(16)
    return listener


def _answer(listener: socket.socket) -> None:
    """Forks for each request until standard input closes; then nobody finds the door any more."""
    gc.freeze()  # what is loaded stays shared with every child, and no child's collector walks it
    gc.enable()
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ, ("listener", None, None))
    selector.register(sys.stdin.fileno(), selectors.EVENT_READ, ("owner", None, None))
    children: dict[int, socket.socket] = {}
    try:
        while _turn(selector, listener, children):
            pass
    finally:
        for child in children:
            _end(child)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(listener.getsockname())


def _turn(selector: selectors.BaseSelector, listener: socket.socket, children: dict[int, socket.socket]) -> bool:
    for key, _ in selector.select():
        kind, child, connection = key.data
        if kind == "owner":
            return False
        if kind == "listener":
            _start(selector, listener, children)
        elif kind == "client" and child in children:
            _end(child)
            selector.unregister(connection)
        elif kind == "child" and child in children:
            _finish(selector, key.fd, child, children)
    return True


def _start(selector: selectors.BaseSelector, listener: socket.socket, children: dict[int, socket.socket]) -> None:
    connection, _ = listener.accept()
    try:
        length, streams, _, _ = socket.recv_fds(connection, _LENGTH, 2)
        request = json.loads(_read(connection, int.from_bytes(length, "big")))
        if request["arguments"][0] == DVC:
            params_cache.note(request["folder"])
    except (OSError, ValueError, LookupError, TypeError):  # it broke off, or is no request
        connection.close()
        return
    child = os.fork()
    if child == 0:
        selector.close()
        listener.close()
        _become(request, streams)
    for stream in streams:
        os.close(stream)
    children[child] = connection
    selector.register(connection, selectors.EVENT_READ, ("client", child, connection))
    selector.register(os.pidfd_open(child), selectors.EVENT_READ, ("child", child, connection))


def _end(child: int) -> None:
    """Kills what was forked with all that it started: DVC starts a stage by a shell, which would live on."""
    for kill in (os.killpg, os.kill):  # it leads a group unless it has only just been forked
        with contextlib.suppress(ProcessLookupError):
            kill(child, signal.SIGKILL)


def _finish(selector: selectors.BaseSelector, descriptor: int, child: int, children: dict[int, socket.socket]) -> None:
    _end(child)  # before it is waited for, while nobody else can have its number
    _, status = os.waitpid(child, 0)
    selector.unregister(descriptor)
    os.close(descriptor)
    connection = children.pop(child)
    with contextlib.suppress(KeyError):
        selector.unregister(connection)
    with contextlib.suppress(OSError):
        connection.sendall(str(os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 1).encode())
    connection.close()


def _become(request: dict, streams: list[int]) -> None:
    """Turns the forked child into the stage; does not return."""
    code = 1
    try:
        processes.die_with_parent()
        os.setsid()
        os.dup2(streams[0], 1)
        os.dup2(streams[1], 2)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        code = _run_as(request["arguments"][0], request["arguments"][1:])
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _run_as(name: str, arguments: list[str]) -> int:
    if name == DVC:
        from dvc.cli import main

        os.environ[processes.STARTED_BY] = str(
            os.getpid()
        )  # its stages end with it, as it does with the one that asked
        params_cache.use()
        return main(arguments)
    from stages.context import run

    return run.stage(name, arguments)


def _read(connection: socket.socket, length: int) -> bytes:
    parts: list[bytes] = []
    while length > 0:
        part = connection.recv(min(length, 1 << 16))
        if not part:
            raise OSError("the request broke off")
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def _preload_dvc() -> None:
    """Imports what DVC uses. Its modules have other names in other versions: what is not there is imported by what needs it."""
    gc.disable()  # until a request is answered: all that is made now stays
    for name in ("cachemgr", "cli.parser", "dirs", "repo.open_repo", "utils.strictyaml"):
        with contextlib.suppress(ImportError):
            importlib.import_module(f"dvc.{name}")
    with contextlib.suppress(ImportError, AttributeError):
        importlib.import_module("dvc.cli.parser").get_main_parser()


def _preload_stages() -> bool:
    """Imports what stages use, one after the other; False if the owner ended meanwhile."""
    for name in STAGES:
        if select.select([sys.stdin], [], [], 0)[0]:
            return False
        importlib.import_module(name)
    importlib.import_module("otmf.backbones").preload()
    return True


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(sys.argv[1])
    os._exit(0)  # what is loaded has nothing to put away, and taking it apart takes time
