# Every target does its own set-up: virtual environment, build, and (as root) missing system packages.
# PYTHON picks the interpreter the environment is made with; ARGS goes to pytest (make test ARGS='-k dhcp').

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check
COMPILED := $(shell find src -name '*.pyx' -o -name '*.pxd' -o -name '*.h')
BENCH_PARTS := $(addprefix bench/,common.py contenders.py ends.py report.py rootless_tables.py dataplane/slices.py)
# Tests wait more than they compute: one process more than there are cores. A file's tests stay in one process.
JOBS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
PYTEST := $(BIN)/pytest -n $(JOBS) --dist loadfile
BENCHES ?= $(subst /,.,$(patsubst bench/%.py,%,$(filter-out $(BENCH_PARTS),$(wildcard bench/*.py bench/dataplane/*.py bench/ports/*.py))))

ABX_SOAK_S ?= 1800

.PHONY: demo test again standin fast e2e soak lint bench ratchet asan tsan fuzz fuzz-same fuzz-build macos-build macos-wheels build clean
.DELETE_ON_ERROR:

demo: build  ## a network, a guest on it, and proof that it works; as root also the kind that needs root
	@scripts/system-packages demo
	$(BIN)/arcbox-net demo

test: build  ## the fast suite and, as root, the end-to-end suite
	@scripts/system-packages test
	@scripts/what-runs
	@$(MAKE) --no-print-directory standin
	$(PYTEST) $(ARGS)

again:  ## the tests that failed last time, one after the other; fails when none is known
	$(BIN)/pytest --last-failed --last-failed-no-failures none

# What tests of macOS's part are built against: once, before several processes of them wait for it.
standin: build
	@if command -v clang >/dev/null && [ -e /usr/include/Block.h ]; then scripts/standin $(BIN); fi

fast: standin  ## only what needs neither root nor a kernel of its own
	$(PYTEST) -m 'not e2e' $(ARGS)

e2e: build  ## only what needs root
	@scripts/system-packages test
	@scripts/what-runs
	$(PYTEST) -m e2e $(ARGS)

soak: build  ## work with a fault every half minute for ABX_SOAK_S seconds: nothing may grow
	@scripts/system-packages test
	ABX_SOAK_S=$(ABX_SOAK_S) $(BIN)/pytest tests/e2e/test_soak.py

lint: $(VENV)/.stamp-lint $(VENV)/.stamp-build
	scripts/lint $(BIN)

bench: build  ## every benchmark, or BENCHES='nat dns'
	@scripts/system-packages bench
	set -e; for name in $(BENCHES); do $(BIN)/python -m bench.$$name; done
	$(BIN)/python -m bench.report

ratchet: build  ## frames a second of ports: fails when they fell by more than a tenth of what is stored
	$(BIN)/python -m bench.ports.floor --check

# The sanitised modules go to a tree of their own, so that the ordinary build stays as it is. With CI set properties are
# looked at with fewer examples: all of it is several times slower than usual.
asan: build  ## the fast suite under AddressSanitizer and UndefinedBehaviorSanitizer
	ARCBOX_BUILD=asan $(BIN)/python setup.py -q build --build-base build/asan --build-lib build/asan/lib
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0:handle_segv=0 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 PYTHONMALLOC=malloc \
	PYTHONPATH=build/asan/lib CI=true $(PYTEST) -m 'not e2e' -p no:cacheprovider -o timeout=900 $(ARGS)

tsan: build  ## threads on the packet pool and the ring, and workers, under ThreadSanitizer
	scripts/tsan $(BIN)

FUZZ_TARGETS ?= conntrack framing nat nat_model switch vhost_user vring
FUZZED := arcbox_net.dataplane arcbox_net.memory arcbox_net.ports arcbox_net.wire
ABX_FUZZ_SECONDS ?= 120

fuzz: fuzz-build  ## each of FUZZ_TARGETS for ABX_FUZZ_SECONDS
	scripts/fuzz $(ABX_FUZZ_SECONDS) $(FUZZ_TARGETS)

fuzz-same: fuzz-build  ## each of FUZZ_TARGETS with inputs that are the same each time
	scripts/fuzz same $(FUZZ_TARGETS)

fuzz-build: build/fuzz/libfuzzer.so build
	CC=clang LDSHARED='clang -shared' ARCBOX_BUILD=fuzz ARCBOX_MODULES='$(FUZZED)' \
	$(BIN)/python setup.py -q build --build-base build/fuzz --build-lib build/fuzz/lib

build/fuzz/libfuzzer.so:
	@scripts/system-packages fuzz
	mkdir -p $(@D)
	clang -shared -o $@ -Wl,--whole-archive "$$(clang -print-file-name=libclang_rt.fuzzer_no_main-x86_64.a)" \
	-Wl,--no-whole-archive -l:libstdc++.so.6 -lpthread -lm

macos-build: $(VENV)/.stamp-macos-build build  ## what is for macOS, built here for one processor, and what it takes of the system
	$(BIN)/python scripts/macos_build.py quick

macos-wheels: $(VENV)/.stamp-macos-build build  ## the same from the source distribution for both, as wheels in build/macos
	$(BIN)/python scripts/macos_build.py wheels

build: $(VENV)/.stamp-build

$(VENV)/.stamp-install: pyproject.toml
	@scripts/system-packages build
	@$(PYTHON) scripts/check_python.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python scripts/requires.py | $(PIP) install -q -r /dev/stdin
	$(PIP) install -q --no-build-isolation -e '.[test]'
	@mkdir -p $(VENV)/share/man/man1  # what an editable install leaves out
	@ln -sf $(CURDIR)/docs/man/arcbox-net.1 $(VENV)/share/man/man1/
	@touch $@

# pip has just built everything once; this rebuilds what changed since.
$(VENV)/.stamp-build: $(VENV)/.stamp-install setup.py $(COMPILED)
	$(BIN)/python setup.py -q build_ext --inplace
	@touch $@

$(VENV)/.stamp-lint: $(VENV)/.stamp-install
	$(BIN)/python scripts/requires.py lint | $(PIP) install -q -r /dev/stdin
	@touch $@

# Not everywhere is there a wheel of it; the script says so.
$(VENV)/.stamp-macos-build: $(VENV)/.stamp-install
	if $(BIN)/python scripts/requires.py macos-build | $(PIP) install -q -r /dev/stdin; then touch $@; fi

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis src/*.egg-info
	find src tests bench -name '__pycache__' -prune -exec rm -rf {} +
	find src -name '*.so' -delete
