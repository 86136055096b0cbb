# Korder. `make` alone prints what there is. Python 3.11 or newer and make are all it needs.
#
# Every target installs what it uses into .venv first; when nothing changed, that takes no time.
# More arguments go through ARGS:  make up ARGS="--port 9000"   make test ARGS="tests/unit -x"

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
ARGS ?=

# The first Python here that is new enough and can make a venv; overrule it with PYTHON=...
PYTHON ?= $(shell for name in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$name -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
	>/dev/null 2>&1 && echo $$name && break; done)
INSTALL = $(or $(PYTHON),python3) tools/install.py
BIN := .venv/bin

##@ Run it

up: .runtime ## Start everything on this machine: PostgreSQL, Valkey, API, worker. Ctrl-C stops it.
	@exec $(BIN)/korder up $(ARGS)

rush: .runtime ## Let 1,000 members want 500 tickets at once, then audit; writes report.html.
	@exec $(BIN)/korder rush --report report.html $(ARGS)

audit: .runtime ## Ask whether anything was oversold, undersold or lost.
	@exec $(BIN)/korder audit $(ARGS)

##@ Change it

test: .dev ## Run the tests; ARGS="tests/unit" for the quick ones.
	@exec $(BIN)/python -m pytest $(ARGS)

check: .dev ## Format, lint, types and import contracts, as .ci/run wants them.
	@status=0; \
	$(BIN)/ruff format --check --quiet . || { echo 'Mend it: $(BIN)/ruff format .'; status=1; }; \
	$(BIN)/ruff check --quiet . || status=1; \
	$(BIN)/mypy --no-error-summary || status=1; \
	$(BIN)/lint-imports --no-cache --no-logo || status=1; \
	exit $$status

docs: .runtime ## Write docs/settings.md anew from korder.settings.
	@page=$$($(BIN)/python -m korder.cli.settings_doc) && printf '%s\n' "$$page" > docs/settings.md

##@ Measure it

bench: .dev ## Run the benchmarks in bench/ on this machine (minutes; wants wrk).
	@exec $(BIN)/python -m bench.run $(ARGS)

##@ Keep it

lock: ## Write both locks anew from pyproject.toml; ARGS="--upgrade" takes newer versions.
	@exec $(or $(PYTHON),python3) tools/lock.py $(ARGS)

clean: ## Remove what was installed and cached, never the data in .korder.
	@rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis dist
	@find src tests bench tools -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

help: ## Print this.
	@awk 'BEGIN { FS = ":.*## "; print "make <target>, with ARGS=\"...\" for more arguments" } \
	  /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z]+:.*## / { printf "  %-8s %s\n", $$1, $$2 }' Makefile

.runtime:
	@$(INSTALL) runtime

.dev:
	@$(INSTALL) dev

.PHONY: up rush audit test check docs bench lock clean help .runtime .dev
