# make demo   run two nodes, a broker, components and a balancer on this machine
# make test   run all checks: lint, types, import rules, every test
# make model  explore all states of the model of the hand-off (MORE=1: one more fault, minutes)
# make bench  measure speed and cost, and compare with other systems (QUICK=1: about five minutes)
# make screenshots  take pictures of all pages for the documentation
# make links  hand 20,000 runs over between two nodes while their link is cut and they are killed (root)

PYTHON ?= python3
BENCH_PYTHON ?= $(firstword $(wildcard /usr/bin/python3) $(PYTHON))
VENV := .dev-venv
BIN := $(VENV)/bin
WORKERS ?= 6

# Python may write bytecode. Then the programs that tests start are compiled only once.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help demo test model run-tests lint format bench links screenshots lock clean

help:
	@sed -n 's/^# \(make.*\)/\1/p' Makefile

# The development environment has this project, and packages of exact versions, verified by hash.
$(VENV)/.made: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
		echo 'Python cannot make virtual environments: apt install python3-venv'; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# Benchmarks run nodes in this environment. It has only the packages that a user installs.
.node-venv/.made: constraints.txt pyproject.toml
	$(BENCH_PYTHON) -m venv .node-venv
	.node-venv/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

demo: $(VENV)/.made
	@$(BIN)/fractal-rm demo $(if $(ONCE),--once)

# Linters and tests run at the same time: the linters take one core, and tests often wait.
test: $(VENV)/.made
	@.ci/needs mosquitto mosquitto_pub rabbitmq-server openssl strace ip faketime systemd-analyze logrotate promtool chromium
	@$(MAKE) --no-print-directory --jobs=2 lint run-tests

model: $(VENV)/.made
	@$(BIN)/python -m fractal_rm.testing.handoff $(if $(MORE),--more $(MORE))

run-tests: $(VENV)/.made
	$(BIN)/pytest -n $(WORKERS) --dist worksteal -q

lint: $(VENV)/.made
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --quiet --check .
	$(BIN)/basedpyright --level error
	$(BIN)/lint-imports --no-cache > .lint-imports.log || { cat .lint-imports.log; exit 1; }
	@rm -f .lint-imports.log

format: $(VENV)/.made
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Benchmarks use the system's Python, as an installed node does, in a separate environment.
bench:
	@.ci/needs mosquitto nginx wrk redis-server python3-venv mount mkfs.ext4
	@$(MAKE) --no-print-directory VENV=.bench-venv PYTHON=$(BENCH_PYTHON) .bench-venv/.made .node-venv/.made
	.bench-venv/bin/python -m bench $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY)) $(if $(AGAINST),--against $(AGAINST))

# Needs root, for network namespaces, and the history of the repository, for an earlier release.
links: $(VENV)/.made
	@.ci/needs ip
	PYTHONPATH=test $(BIN)/python -m links $(LINKS)

# Removed pages leave no picture behind.
screenshots: $(VENV)/.made
	@.ci/needs chromium mosquitto pngquant
	rm -rf docs/images/pages
	PYTHONPATH=test $(BIN)/python test/screenshots.py docs/images/pages

# Lock new versions of all packages. Then review the changes, run the tests, and commit.
lock:
	$(PYTHON) -m venv .lock-venv
	.lock-venv/bin/pip install --quiet pip-tools
	.lock-venv/bin/pip-compile --quiet --upgrade --generate-hashes --all-extras --allow-unsafe \
		--strip-extras --no-emit-index-url --no-emit-trusted-host --no-emit-find-links \
		--no-header --no-annotate -o requirements.lock pyproject.toml
	sed -i '1i # Hashes of the packages that `make` installs; made by `make lock`.' requirements.lock
	{ echo '# The versions that every test ran with; made by `make lock`.'; \
		sed -n 's/^\([A-Za-z0-9_.-]*==[^ ]*\).*/\1/p' requirements.lock; } > constraints.txt
	rm -rf .lock-venv

clean:
	rm -rf $(VENV) .bench-venv .node-venv .lock-venv .pytest_cache .ruff_cache bench/.peers
