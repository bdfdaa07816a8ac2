# Two commands are all there is to know: `make demo` and `make test`. Both install what they need into .venv first.
PYTHON ?= python3
UV_VERSION = 0.13.9
export DO_NOT_TRACK = true
export MLFLOW_DISABLE_TELEMETRY = true
export PREFECT_SERVER_ANALYTICS_ENABLED = false
export DVC_NO_ANALYTICS = 1

.PHONY: demo test lint lock bench clean
.DEFAULT_GOAL := demo

.venv/.ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "expected Python 3.11 or newer; received %d.%d; call make PYTHON=/path/to/newer/python" % sys.version_info[:2])'
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	.venv/bin/uv pip sync --quiet --compile-bytecode --python .venv/bin/python requirements.lock
	.venv/bin/uv pip install --quiet --no-deps --python .venv/bin/python uv==$(UV_VERSION) --editable .
	touch $@

demo: .venv/.ready
	.venv/bin/otmf demo demo

test: .venv/.ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/python -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal

lint: .venv/.ready
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

bench: .venv/.ready
	.venv/bin/python -m tests.benchmarks.bench_merge --encoder tiny
	.venv/bin/python -m tests.benchmarks.bench_memory --encoder tiny
	.venv/bin/python -m tests.benchmarks.bench_pipeline

# Resolves pyproject.toml anew; commit what changes.
lock: .venv/.ready
	.venv/bin/uv pip compile --quiet --universal --python-version 3.11 --upgrade --extra test \
	  --no-emit-index-url --custom-compile-command "make lock" -o requirements.lock pyproject.toml

clean:
	rm -rf .venv demo
