# What can be done here: make demo, make test, make check, make bench, make soak, make lock.
# Everything runs in .venv, which is made from requirements.lock when it is missing or older than that.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: demo test check soak bench lock clean

demo: $(INSTALLED)
	$(BIN)/strongroom demo

# Three processes keep two cores busy while one of them waits. Files in their order: few long tests don't come last.
test: $(INSTALLED)
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not soak"

soak: $(INSTALLED)
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

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
