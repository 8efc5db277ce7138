# `make help` lists what there is. Everything is installed into .venv; a second call does nothing.

PYTHON ?= python3
# A CPU or CUDA build of another index: make adapt TORCH='torch==2.13.0' PIP_ARGS='--extra-index-url URL'
TORCH ?= torch==2.13.0
PIP_ARGS ?=
# Arguments of `simpl adapt`: make adapt ARGS='--task "kettle > bottom burner" --rate real'
ARGS ?=

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin

# A ROS 2 distribution that is sourced brings rclpy and colcon; without one the wheels do. What was made for the one
# is no use to the other.
ifdef ROS_DISTRO
ROS_EXTRAS :=
VENV_ARGS := --system-site-packages
STAMPS := $(VENV)/stamps-$(ROS_DISTRO)
IN_WORKSPACE := source ros2_ws/install/local_setup.bash &&
else
ROS_EXTRAS := ,ros,ros-build
VENV_ARGS :=
STAMPS := $(VENV)/stamps
IN_WORKSPACE :=
# Nothing leaves the machine unless asked for.
export ROS_AUTOMATIC_DISCOVERY_RANGE ?= LOCALHOST
endif
COMMA := ,
EXTRAS := robot,record,sim,train$(ROS_EXTRAS)

# The ROS wheels mark an environment they have prepared; the mark of another environment must not count here.
unexport _ROS_WHEELS_BOOTSTRAP_COMPLETE
export PIP_DISABLE_PIP_VERSION_CHECK := 1

INTERFACES := $(shell find ros2_ws/src/simpl_interfaces -type f)
# The folders are named because a file that comes or goes changes them.
NODES := ros2_ws/build.py ros2_ws/src/simpl/config ros2_ws/src/simpl/config/datasheets launch $(addprefix ros2_ws/src/simpl/,package.xml setup.py setup.cfg) \
	$(wildcard ros2_ws/src/simpl/config/*.yaml ros2_ws/src/simpl/config/datasheets/*.yaml launch/*.launch.py)

# pip leaves INSTALLER until a package is complete: what an interrupted call began is done again. MuJoCo 4 is several
# packages, of which removing 3 in the same call would take files away.
define pip-install
if ls -d $(VENV)/lib/python3*/site-packages/mujoco-3*.dist-info >/dev/null 2>&1; then \
	$(BIN)/python -m pip uninstall --yes mujoco; fi; \
for unfinished in $(VENV)/lib/python3*/site-packages/*.dist-info; do \
	[ -e "$$unfinished/INSTALLER" ] || rm -rf "$$unfinished"; done; \
$(BIN)/python -m pip install $(PIP_ARGS) --constraint .ci/constraints.txt --editable '.[$(EXTRAS)$(1)]' '$(TORCH)'
endef

.DELETE_ON_ERROR:
.PHONY: help adapt test test-slow lint ros install shell clean

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

adapt: install ## install, build, then adapt the simulated arm to an unseen task; ARGS='...' for `simpl adapt`
	@$(IN_WORKSPACE) $(BIN)/simpl adapt $(ARGS)

test: $(STAMPS)/ros $(STAMPS)/dev ## install what is missing; ruff, mypy, and all tests but the slow ones
	@$(MAKE) --no-print-directory lint
	$(IN_WORKSPACE) $(BIN)/python -m pytest -m "not slow"

test-slow: $(STAMPS)/ros $(STAMPS)/dev ## the slow tests
	$(IN_WORKSPACE) $(BIN)/python -m pytest -m slow

lint: $(STAMPS)/dev ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/mypy

ros: $(STAMPS)/ros ## build the ROS workspace (for the distribution that is sourced, else for the wheels)

install: $(STAMPS)/ros ## everything but running it

shell: install ## a shell in which `simpl` is found
	@$(IN_WORKSPACE) PATH="$(CURDIR)/$(BIN):$$PATH" $${SHELL:-/bin/bash} || true

clean: ## remove what was installed and built; runs/ stays
	rm -rf $(VENV) ros2_ws/build ros2_ws/install ros2_ws/log *.egg-info .mypy_cache .pytest_cache .ruff_cache

$(STAMPS)/venv:
	@.ci/system-packages $(PYTHON)
	@.ci/check-python $(PYTHON)
	@echo "[1/3] creating $(VENV) with $$($(PYTHON) --version)"
	@rm -rf ros2_ws/build ros2_ws/install
	@$(PYTHON) -m venv $(if $(wildcard $(VENV)/stamps*),--clear) $(VENV_ARGS) $(VENV)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/packages: $(STAMPS)/venv pyproject.toml .ci/constraints.txt
	@echo "[2/3] installing Python packages (about 2 minutes)"
	@$(call pip-install)
	@touch $@

$(STAMPS)/dev: $(STAMPS)/packages
	@echo "installing what the tests need"
	@$(call pip-install,$(COMMA)dev)
	@touch $@

$(STAMPS)/ros: $(STAMPS)/packages $(INTERFACES) $(NODES)
	@echo "[3/3] building the ROS workspace (about 1 minute)"
	@$(BIN)/python ros2_ws/build.py
	@touch $@
