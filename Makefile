# make run and make test each work alone on a fresh machine: they need python3 (3.11 or newer,
# with venv) and a package index, and keep everything they install in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# test-cuda adds the compiler that checks the CUDA kernels; without it those tests are skipped.
TEST_EXTRA ?= test
# What make live-programs compares, all if empty, and how often each; it fails if it could compare none.
PROGRAMS ?=
ROUNDS ?= 3
SWEEP ?= benchmarks/sweep.toml
# Another kernel for the guest, a folder with vmlinuz-RELEASE and its modules: docs/notes/kmigrated.md.
GUEST_KERNEL ?= $(GPUSCAN_GUEST_KERNEL)
export GPUSCAN_GUEST_KERNEL := $(GUEST_KERNEL)
GUEST = $(BIN)/python -m tests.vm --fetch
PEERS = build/peers$(if $(GUEST_KERNEL),-$(notdir $(abspath $(GUEST_KERNEL))))
PEERS_IN_GUEST = $(GUEST) --limit 1800 $(BIN)/python -m tests.guest.peers
IN_GUEST = -p no:cacheprovider tests/guest
# setuptools warns at length that folders may shadow an editable install; the links gpuscan/kernels and
# gpuscan/cli see to that.
INSTALL = PYTHONWARNINGS='ignore:Editable installation' $(BIN)/python -m pip install --quiet --editable

.PHONY: deb run test test-slow test-live soak-live soak-service test-package test-image test-programs live-peers live-programs bench docs lint format clean help

help:
	@echo "make run     install into $(VENV) and run the default workload (ARGS='...' to add options)"
	@echo "make test    install into $(VENV) and run the tests (under 5 minutes)"
	@echo "make test-live   boot a guest with four NUMA nodes and run the live tests in it (Debian, QEMU)"
	@echo "make soak-live   keep gpuscan live busy in it for half an hour"
	@echo "make soak-service   the package's service under systemd in it, killed and reloaded every minute for half an hour"
	@echo "make test-package   the Debian package in it, from the first installation to the purge (half an hour)"
	@echo "make test-image   the container image, built and run once (Debian, buildah, debootstrap; ten minutes)"
	@echo "make test-programs   redis, PostgreSQL, a JVM and others in it while gpuscan moves their pages (half an hour)"
	@echo "make live-peers  compare it there with what the kernel has of its own (GUEST_KERNEL=DIR: of another kernel)"
	@echo "make live-programs   the same comparison with those programs (PROGRAMS='redis jvm', ROUNDS=3)"
	@echo "make bench   record benchmarks/results (18 GiB free, half an hour on a quiet machine)"
	@echo "make docs    build the documentation site into build/site"
	@echo "make deb     build a Debian package into build"
	@echo "make lint    ruff, mypy (the library --strict, and the tests) and import-linter"
	@echo "make format  apply ruff's fixes and formatting"
	@echo "make clean   remove $(VENV), caches and build output"

run: $(VENV)/installed
	$(BIN)/gpuscan run $(ARGS)

test: $(VENV)/installed-$(TEST_EXTRA)
	$(BIN)/python tests/compile_kernels.py
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

test-slow: $(VENV)/installed-$(TEST_EXTRA) $(VENV)/installed-docs
	$(BIN)/pytest -m 'slow and not guest and not alone and not image' -n auto --maxprocesses 4 --dist worksteal --timeout 1800 $(ARGS)
	$(BIN)/pytest -m 'slow and alone and not guest' --timeout 1800 $(ARGS)

test-live: $(VENV)/installed-test
	$(GUEST) --limit 1200 $(BIN)/pytest $(IN_GUEST) -m 'guest and not slow' $(ARGS)
	$(BIN)/pytest -m guest tests/doors/test_kmigrated.py

soak-live: $(VENV)/installed-test
	$(GUEST) --limit 3600 $(BIN)/pytest $(IN_GUEST) -m 'guest and slow and not systemd and not programs' $(ARGS)
	$(GUEST) --module --limit 900 $(BIN)/pytest $(IN_GUEST)/test_hotplug.py -m guest $(ARGS)

# GPUSCAN_SOAK_S=300 is a shorter one; SOAK_PACKAGE= (nothing) takes the service of the checkout.
SOAK_PACKAGE ?= yes
BUILT_PACKAGE = $$($(BIN)/python packaging/build_deb.py build --compression none)
SYSTEMD_GUEST = $(GUEST) --systemd --limit 7200
SYSTEMD_TESTS = -s -m 'guest and systemd' $(ARGS)
soak-service: $(VENV)/installed-test
	package=$(if $(SOAK_PACKAGE),$(BUILT_PACKAGE)) && \
	$(SYSTEMD_GUEST) $${package:+--package "$$package"} \
		$(BIN)/pytest $(IN_GUEST) --ignore tests/guest/test_package.py $(SYSTEMD_TESTS)

test-package: $(VENV)/installed-test
	package=$(BUILT_PACKAGE) && \
	$(SYSTEMD_GUEST) --package "$$package" $(BIN)/pytest $(IN_GUEST)/test_package.py $(SYSTEMD_TESTS)

test-image: $(VENV)/installed-test
	GPUSCAN_IMAGE_REQUIRED=1 $(BIN)/pytest -m image --log-cli-level INFO tests/service/test_image.py $(ARGS)

# What is not installed is skipped, and none is a failure: redis-server memcached sqlite3 postgresql openjdk-17-jre-headless
# (and a javac). The limit is five tests' and a boot.
test-programs: $(VENV)/installed-test
	$(BIN)/python -m tests.guest.programs.make
	$(GUEST) --limit 9000 $(BIN)/pytest $(IN_GUEST)/test_programs.py -m 'guest and programs' --log-cli-level INFO $(ARGS)

# The tables of docs/live.md, docs/notes/live-speed.md and docs/notes/kmigrated.md: three boots, half an hour each at most.
live-peers: $(VENV)/installed-test
	mkdir -p build
	$(PEERS_IN_GUEST) --patterns fixed --until-enough --for-s 30 --rounds 5 \
		--methods numa-balancing-1 numa-balancing-2 damon-migrate-hot gpuscan >$(PEERS)-speed.part
	mv $(PEERS)-speed.part $(PEERS)-speed.jsonl
	$(PEERS_IN_GUEST) >$(PEERS)-placement.part
	mv $(PEERS)-placement.part $(PEERS)-placement.jsonl
	$(PEERS_IN_GUEST) --patterns interleaved idle --for-s 20 --rounds 3 \
		--methods numa-balancing-1 numa-balancing-2 >$(PEERS)-interleaved.part
	mv $(PEERS)-interleaved.part $(PEERS)-interleaved.jsonl
	$(BIN)/python -m tests.guest.peers_table $(PEERS)-speed.jsonl $(PEERS)-placement.jsonl $(PEERS)-interleaved.jsonl

# The table of docs/notes/programs.md: two hours for all of them in three rounds.
live-programs: $(VENV)/installed-test
	mkdir -p build
	$(BIN)/python -m tests.guest.programs.make
	$(GUEST) --limit 14400 $(BIN)/python -m tests.guest.programs.compare --rounds $(ROUNDS) \
		$(if $(PROGRAMS),--programs $(PROGRAMS)) >build/programs.part
	mv build/programs.part build/programs.jsonl
	$(BIN)/python -m tests.guest.programs.table build/programs.jsonl

bench: $(VENV)/installed-bench
	$(BIN)/gpuscan bench sweep $(SWEEP) --out benchmarks/results --force $(ARGS)
	$(BIN)/python benchmarks/bars.py benchmarks/results/bench.json

# Not --quiet: with it MkDocs counts no warnings, and nothing is strict.
docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# Everything that Debian does not have comes along: build it where the package is for (docs/notes/packaging.md).
deb: $(VENV)/installed
	$(BIN)/python packaging/build_deb.py build $(ARGS)

lint: $(VENV)/installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/installed-lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/pip:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "gpuscan needs Python 3.11 or newer, this is %d.%d; set PYTHON=" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	touch $@

$(VENV)/installed: $(VENV)/pip pyproject.toml
	$(INSTALL) .
	touch $@

# One stamp per extra of pyproject.toml: a plain run does not install the test tools.
$(VENV)/installed-%: $(VENV)/pip pyproject.toml
	$(INSTALL) '.[$*]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
