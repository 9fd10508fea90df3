# Two commands: `make demo` shows the whole story, `make test` proves it. Both prepare the machine first.
.PHONY: setup test demo bench peers faults lint lock pin clean help
BIN := .venv/bin
KILLS ?= 1000
SEED ?= 7
BENCH ?= $(patsubst tests/bench/%.py,%,$(filter-out tests/bench/report.py tests/bench/_%,$(wildcard tests/bench/*.py)))

help: ## list the targets
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install what is missing; seconds when nothing is
	@./setup.sh

test: setup ## every suite, seconds by suite; TIERS="stack lake" for some
	@$(BIN)/python tests/run.py $(TIERS)

demo: setup ## the whole story on a real broker; KEEP=1 leaves it running
	@$(BIN)/driftline demo

bench: setup ## every benchmark in its long form; BENCH="validator drift" for some
	@./setup.sh peers || true
	@status=0; for name in $(BENCH); do $(BIN)/driftline bench $$(echo $$name | tr _ -) --json --full || status=1; done; exit $$status

peers: ## the tools that the drift bench compares with, each in an environment of its own (2.5 GB)
	@./setup.sh peers

faults: setup ## 1,000 kills under load and the planted bugs, under an hour on two quiet cores; KILLS=100 SEED=7 for others
	@$(BIN)/driftline faults --kills $(KILLS) --seed $(SEED) --planted --json

lint: setup ## formatter and linter, nothing is changed
	@$(BIN)/ruff format --check . && $(BIN)/ruff check .

lock: setup ## resolve requirements.in and pom.xml anew, write every hash
	@$(BIN)/uv pip compile -q --generate-hashes --no-header --no-emit-index-url --python-version 3.11 requirements.in -o requirements.lock
	@sed -n 's/^\(uv==[0-9.]*\).*/\1/p' requirements-uv.lock | $(BIN)/uv pip compile -q --generate-hashes --no-annotate --no-header --no-emit-index-url --python-version 3.11 - -o requirements-uv.lock
	@cd tests/bench/peers && for name in *.in; do ../../../$(BIN)/uv pip compile -q --generate-hashes --no-annotate --no-header --no-emit-index-url --python-version 3.11 $$name -o $${name%.in}.lock || exit 1; done
	@rm -rf .driftline/kafka/libs && mvn -B -q package && (cd .driftline/kafka/libs && sha256sum *.jar) > kafka-jars.sha256

pin: setup ## write the digests of the container images, where a registry answers
	@$(BIN)/python -m pipeline.compose_file --pin

clean: ## stop the stack and remove everything that was made here, .venv included
	@[ ! -x $(BIN)/driftline ] || $(BIN)/driftline down || true
	@rm -rf .driftline .venv .pytest_cache .hypothesis .ruff_cache *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
