# SPDX-License-Identifier: Apache-2.0
# Each target does its whole set-up, in a .venv in this tree that is made once and reused. It holds what
# was asked for so far: what compare needs (the base), what the tests need, what the linters need.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
PYTEST := $(BIN)/python -m pytest
WHEEL_PYTHONS := 3.11 3.12 3.13 3.14
WHEEL_TESTS := $(WHEEL_PYTHONS:%=wheel-test-%)
UNIT_TESTS := $(foreach kind,arrays cache huge purgeable slots mapping engines fork import traps,$(wildcard tests/*/test_$(kind)*.py))
# On these all of them; on those what depends on the version of Python; on others the wheel is asked whether
# it is whole. `make WHEEL_FULLY=3.13 wheel-test` for one.
WHEEL_FULLY ?= $(WHEEL_PYTHONS)
WHEEL_MAINLY ?=
WHEEL_SMOKE_TESTS := $(foreach kind,import mapping_api arrays_api cache_api,$(wildcard tests/*/test_$(kind).py))
WHEEL_MAIN_TESTS := $(WHEEL_SMOKE_TESTS) $(foreach kind,arrays_files arrays_pickles arrays_python arrays_shapes cache_habits \
  cache_threads commands_extras fork_multiprocessing fork_scratch huge_slot_model mapping_arguments purgeable_model traps_signals \
  traps_warnings,$(wildcard tests/*/test_$(kind).py))

BASE := $(VENV)/installed-base
TESTS := $(VENV)/installed-tests
LINT := $(VENV)/installed-lint
PIP := $(BIN)/python -m pip --disable-pip-version-check
PIP_QUIETLY := --quiet
# Bytecode is made of what is imported, which is the least part of what is installed.
export PIP_NO_COMPILE := 1
# Of `make -j`, one changes the environment at a time.
ONE_AT_A_TIME := flock $(VENV)
ASAN_OPTIONS := b_sanitize=address,undefined b_lundef=false b_ndebug=false buildtype=debugoptimized check_states=true

# An environment with what the tests and the build need, but not with mapscratch.
define make_venv
@test -x $(1)/bin/python || $(PYTHON) -m venv --without-pip $(1)
@$(PIP) --python $(1)/bin/python install $(PIP_QUIETLY) 'meson-python>=0.16' 'meson>=1.3' ninja --group unit $(2)
endef

.DEFAULT_GOAL := help
.PHONY: help compare tested test lint format stress wheel-test $(WHEEL_TESTS) asan tsan native mutants bench docs clean prerequisites \
  units distro-test kernel kernel-test kernel-order kernel-hunks droppable-check

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

define check_prerequisites
@missing=; \
  command -v cc >/dev/null || command -v gcc >/dev/null || missing="$$missing build-essential"; \
  command -v $(PYTHON) >/dev/null || missing="$$missing python3"; \
  $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || missing="$$missing python3-venv"; \
  $(PYTHON) -c 'import os, sysconfig, sys; sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' 2>/dev/null || missing="$$missing python3-dev"; \
  command -v readelf >/dev/null || missing="$$missing binutils"; \
  if [ -n "$$missing" ]; then echo "mapscratch needs:$$missing. On Debian: apt install build-essential python3-dev python3-venv" >&2; exit 1; fi; \
  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "mapscratch needs Python 3.11 or newer; $(PYTHON) is older. Give another: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
endef

prerequisites:
	$(check_prerequisites)

# An editable install: the extension is built again, when its source changed, at the next import.
$(BASE): pyproject.toml meson.build meson.options libscratch/meson.build
	@echo "Making $(VENV), once, of some 130 MB: what builds the extension, then NumPy and what the commands need."
	$(check_prerequisites)
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(PIP) install 'pip>=25.1' 'meson-python>=0.16' 'meson>=1.3' ninja
	@echo "Building the extension (C, some ten seconds)."
	$(PIP) install --no-build-isolation --config-settings=setup-args=-Dwerror=true --editable '.[lab]'
	@touch $@

$(TESTS): $(BASE)
	@echo "Adding to $(VENV), once, what is tested: NumPy's neighbours, Dask, zarr (some 600 MB)."
	$(ONE_AT_A_TIME) $(PIP) install --group test --group libraries --group lint
	@touch $@ $(LINT)

$(LINT): $(BASE)
	@echo "Adding to $(VENV), once, the linters."
	$(ONE_AT_A_TIME) $(PIP) install --group lint
	@touch $@

compare: $(BASE) ## the main job: MAP_PRIVATE against scratch mappings, on this machine
	$(BIN)/mapscratch compare --swap auto

# The tests start thousands of interpreters, and an editable install takes a tenth of a second of each: it
# looks whether it is to be built. So the tree is installed as users do it, beside the packages of $(VENV).
TESTED := .venv-tested
tested: $(TESTS)
	@test -x $(TESTED)/bin/python || $(BIN)/python -m venv --without-pip $(TESTED)
	@echo $(CURDIR)/$(VENV)/lib/python3*/site-packages >$$(echo $(TESTED)/lib/python3*/site-packages)/packages.pth
	$(PIP) --python $(TESTED)/bin/python install --quiet --no-deps --no-build-isolation --force-reinstall \
	  -Cbuild-dir=build/installed -Csetup-args=-Dwerror=true .

test: tested ## the tests
	$(TESTED)/bin/python tests/side_by_side.py

lint: $(LINT) ## linters, type checker, the direction of imports and of calls in C
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --explicit-package-bases --package kernel.vm --package distributions
	$(BIN)/mypy libscratch/layers.py
	$(BIN)/python libscratch/layers.py
	$(PYTEST) -q tests/tree/test_layering.py

format: $(LINT) ## lays out the Python code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Limits that find hangs are for an idle machine.
MESON_TEST = $(BIN)/meson test --print-errorlogs --timeout-multiplier $$($(BIN)/python tests/support/patience.py)

NATIVE := build/native
$(NATIVE)/build.ninja: meson.build meson.options libscratch/meson.build tests/native/meson.build $(BASE)
	$(BIN)/meson setup $$(test ! -f $@ || echo --reconfigure) $(NATIVE) -Dnative_tests=true -Dwerror=true

native: $(NATIVE)/build.ninja ## the C drivers of libscratch: ten million word operations and more
	$(MESON_TEST) -C $(NATIVE)

stress: $(NATIVE)/build.ninja $(TESTS) ## the long tests and the long word stress (some minutes)
	$(MESON_TEST) -C $(NATIVE) --benchmark --verbose
	$(PYTEST) -m stress --timeout 600 -s

build/asan/build.ninja: tests/native/meson.build $(BASE)
	$(BIN)/meson setup $$(test ! -f $@ || echo --reconfigure) build/asan -Dnative_tests=true -Dwerror=true $(ASAN_OPTIONS:%=-D%)

# The extension is built into an environment of its own, and the sanitizers' libraries are loaded before Python.
asan: build/asan/build.ninja ## everything native under AddressSanitizer and UndefinedBehaviorSanitizer
	$(MESON_TEST) -C build/asan
	$(call make_venv,.venv-asan,'numpy>=1.26')
	$(PIP) --python .venv-asan/bin/python install $(PIP_QUIETLY) --no-deps --no-build-isolation --force-reinstall \
	  $(ASAN_OPTIONS:%=-Csetup-args=-D%) .
	LD_PRELOAD="$$(cc -print-file-name=libasan.so) $$(cc -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0:handle_segv=0:handle_sigbus=0:handle_abort=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	.venv-asan/bin/python -m pytest -q -p no:cacheprovider --timeout 600 -m 'not slow and not stress and not vm' \
	  $(foreach kind,fixups pages words,$(wildcard tests/*/test_mapping_$(kind).py)) \
	  $(foreach kind,page_states state_machine,$(wildcard tests/*/test_contract_$(kind).py)) \
	  $(foreach kind,conversions streams gathering,$(wildcard tests/*/test_arrays_$(kind).py))

build/tsan/build.ninja: tests/native/meson.build $(BASE)
	$(BIN)/meson setup $$(test ! -f $@ || echo --reconfigure) build/tsan -Dnative_tests=true -Dwerror=true -Dbuildtype=debugoptimized -Db_sanitize=thread -Db_lundef=false

tsan: build/tsan/build.ninja ## the C drivers under ThreadSanitizer
	TSAN_OPTIONS=halt_on_error=1 $(MESON_TEST) -C build/tsan

RELEASE := $(VENV)/installed-release
$(RELEASE): $(BASE)
	$(ONE_AT_A_TIME) $(PIP) install $(PIP_QUIETLY) --group release
	@touch $@

.PHONY: wheel wheel-alone
wheel: $(RELEASE) ## the wheel that is released, stripped, with the oldest glibc that it runs with in its name
	rm -rf dist build/unrepaired
	$(PIP) wheel --quiet --no-deps --no-build-isolation -Cbuild-dir=build/wheel --wheel-dir build/unrepaired .
	$(BIN)/auditwheel repair --strip --zip-compression-level 9 --wheel-dir dist build/unrepaired/*.whl
	$(BIN)/auditwheel show dist/*.whl

wheel-alone: wheel
	$(BIN)/python tests/wheel_alone.py dist/*.whl

# The wheel is one for all Pythons, so each is tested on its own; `make -j` does it side by side. What of the
# tests takes seconds and doesn't depend on Python is left to `make test`.
wheel-test: wheel-alone $(WHEEL_TESTS) ## one abi3 wheel on every Python 3.11-3.14 that is there, and without a compiler

$(WHEEL_TESTS): wheel-test-%: wheel
	@python=$$(PATH="$${PATH#*:}" sh -c 'for candidate in "$$(command -v python$*)" $$HOME/.pyenv/versions/$*.*/bin/python3; do "$$candidate" -c "" 2>/dev/null && { echo "$$candidate"; break; }; done'); \
	if [ -z "$$python" ]; then echo "Python $* is not here: not tested"; exit 0; fi; \
	echo "== the wheel on Python $* ($$python)"; \
	test -x .venv-$*/bin/python || "$$python" -m venv --without-pip .venv-$* || exit 1; \
	$(PIP) --python .venv-$*/bin/python install $(PIP_QUIETLY) --force-reinstall --no-deps dist/mapscratch-*.whl || exit 1; \
	$(PIP) --python .venv-$*/bin/python install $(PIP_QUIETLY) "$$(echo dist/mapscratch-*.whl)[lab]" --group unit || exit 1; \
	warnings=; test $* = 3.11 || warnings='-W error'; \
	tests='$(WHEEL_SMOKE_TESTS)'; \
	case ' $(WHEEL_MAINLY) ' in *' $* '*) tests='$(WHEEL_MAIN_TESTS)' ;; esac; \
	case ' $(WHEEL_FULLY) ' in *' $* '*) tests='$(UNIT_TESTS)' ;; esac; \
	.venv-$*/bin/python tests/side_by_side.py $$warnings -q -p no:cacheprovider -m 'not slow and not stress and not vm' $$tests

mutants: $(TESTS) ## takes each remedy out of libscratch and sees that its test fails
	$(call make_venv,.venv-mutants,pip 'numpy>=1.26' 'jinja2>=3.1' 'msgspec>=0.18' 'pyelftools>=0.30' 'rich>=13.7')
	.venv-mutants/bin/python tests/mutants.py

bench: $(NATIVE)/build.ninja $(TESTS) ## the figures of docs/figures.md, measured on this machine and kept in bench/results/
	$(BIN)/meson compile -C $(NATIVE)
	$(BIN)/python bench/record.py

docs: $(TESTS) ## writes what is generated into the README and docs/
	$(BIN)/python docs/generate.py

# What is installed: the tree, as `pip install .` does it, or `make units INSTALL=dist/*.whl`.
INSTALL ?= .
SHORT_TESTS := $(foreach kind,import mapping_api mapping_words mapping_fixups arrays_api arrays_conversions cache_api \
  traps_stores,$(wildcard tests/*/test_$(kind).py))
units: prerequisites ## the package alone, into an environment that is made anew, and a minute of tests
	$(PYTHON) -m venv --clear .venv-units
	.venv-units/bin/python -m pip install $(PIP_QUIETLY) --disable-pip-version-check 'pip>=25.1'
	.venv-units/bin/python -m pip install $(PIP_QUIETLY) --disable-pip-version-check $(INSTALL) --group unit
	.venv-units/bin/python -m pytest -q -p no:cacheprovider -m 'not slow and not stress and not vm' $(SHORT_TESTS)

# The roots go into a cache outside of the tree: `make distro-test TRIED='trixie --quick'`, or see --help.
distro-test: $(BASE) ## from nothing on Debian 12, 13 and sid, in minimal roots (as root; an hour)
	$(BIN)/python -m distributions $(TRIED)

# The kernels go into a cache outside of the tree; see kernel/README.md.
kernel: $(BASE) ## Linux with MAP_SCRATCH, and without (some 6 minutes, once)
	$(BIN)/python -m kernel.vm build

kernel-test: $(TESTS) $(NATIVE)/build.ninja ## boots it in QEMU and tests MAP_SCRATCH and its engine
	$(BIN)/meson compile -C $(NATIVE)
	$(BIN)/python -m kernel.vm test $(KERNEL_TEST)

kernel-order: $(TESTS) kernel ## the ordering stress: 20 runs with the series, 20 without
	$(BIN)/python -m kernel.vm order

kernel-hunks: $(TESTS) kernel ## takes each hunk out of the series and sees that a test misses it
	$(BIN)/python -m kernel.vm hunks

droppable-check: prerequisites ## shows the defects of MAP_DROPPABLE in this machine's own kernel
	$(PYTHON) kernel/reproducers/check.py

clean: ## removes what the other targets made
	rm -rf .venv .venv-* build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
