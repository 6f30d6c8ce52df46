# Every target is one command; the logic is in tools/.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
RELEASE ?= .venv-release/bin/maestro-release
PACKAGE ?=
ARGS ?=
export PYTHONSAFEPATH = 1

.DEFAULT_GOAL := help
.PHONY: help setup system lock format check test drills matrix bench build plan publish verify index clean release-setup

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  PACKAGE=resilience limits setup, check, test, drills, matrix and bench to one package; ARGS=... is passed on"

setup:  ## make .venv and install the packages into it as wheels
	@$(PYTHON) tools/bootstrap.py dev --venv $(VENV) $(if $(PACKAGE),--only $(PACKAGE))

system:  ## install the system packages that tests use (Debian, needs root)
	@sh tools/system.sh

lock:  ## pin the tools again in constraints.txt
	@sh tools/lock.sh $(VENV)

format: setup  ## format the code
	@$(VENV)/bin/python tools/check.py --fix $(PACKAGE)

check: setup  ## lint, types, import rules, dependencies, links, policy
	@$(VENV)/bin/python tools/check.py $(PACKAGE)

test: setup  ## run the tests, without the drills
	@$(VENV)/bin/python tools/test.py test $(if $(PACKAGE),--package $(PACKAGE)) -- $(ARGS)

drills: setup  ## run the long kill, crash and soak tests
	@$(VENV)/bin/python tools/test.py drills $(if $(PACKAGE),--package $(PACKAGE)) -- $(ARGS)

matrix: setup  ## test every package x extra x Python x {latest, lowest} dependencies
	@$(VENV)/bin/python tools/matrix.py $(if $(PACKAGE),--package $(PACKAGE)) $(ARGS)

bench: setup  ## measure against the named peers, print one table
	@$(VENV)/bin/python tools/bench.py $(if $(PACKAGE),--package $(PACKAGE)) $(ARGS)

release-setup:
	@$(PYTHON) tools/bootstrap.py release

build: release-setup  ## build wheels and sdists into dist/ and check them
	@$(RELEASE) build $(ARGS)

plan: release-setup  ## show what publish would do
	@$(RELEASE) plan $(ARGS)

publish: release-setup  ## build, upload what the index lacks, prove the install
	@$(RELEASE) publish $(ARGS)

verify: release-setup  ## install what is published, with every extra, and import it
	@$(RELEASE) verify $(ARGS)

index: release-setup  ## start the embedded index and leave it running
	@.venv-release/bin/maestro-index start $(ARGS)

clean:  ## remove what the other targets made, published files excepted
	@rm -rf dist .venv .venv-release .mypy_cache .ruff_cache .pytest_cache
