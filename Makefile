# make demo      a tour on real guests; installs what is missing
# make test      every test, and a list of what was skipped
# make bench     figures beside raw QEMU and libvirt; make soak MINUTES=30: random saves and kills
# make event-aarch64   kxl-event for guests on aarch64, into target/release/aarch64
# make install   PREFIX=/usr/local DESTDIR=; make install-xl adds xl, xm and xen; make uninstall
#
# What takes more than a line is in tests/setup.

PREFIX ?= /usr/local
DESTDIR ?=
CARGO ?= cargo
MINUTES ?= 30
BUILT := $(or $(CARGO_TARGET_DIR),target)/release
PLACE := PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' BUILT='$(BUILT)' tests/setup/place

.PHONY: help build demo test bench soak guest guest-aarch64 event-aarch64 install install-xl uninstall fmt clippy clean

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

build:
	@echo "==> building the release binaries"
	@$(CARGO) build --release --locked -p kxl-cli -p kxl-monitor -p kxl-mock
	@CARGO='$(CARGO)' tests/setup/build-vmm '$(BUILT)'
	@CARGO='$(CARGO)' tests/setup/build-event '$(BUILT)'

demo:
	@echo "==> installing what is missing"
	@tests/setup/install demo
	@$(MAKE) --no-print-directory build guest
	@echo "==> the demo"
	@KXL_BUILT='$(BUILT)' tests/demo/run

test:
	@echo "==> installing what is missing"
	@tests/setup/install test
	@$(MAKE) --no-print-directory guest guest-aarch64
	@tests/setup/xendomains
	@echo "==> testing"
	@tests/setup/run-tests

bench:
	@echo "==> installing what is missing"
	@tests/setup/install bench
	@$(MAKE) --no-print-directory build guest
	@echo "==> measuring"
	@KXL_BUILT='$(BUILT)' $(CARGO) run --release --locked -p kxl-bench

# SEED=N throws the same dice again.
soak:
	@echo "==> installing what is missing"
	@tests/setup/install test
	@$(MAKE) --no-print-directory build guest
	@echo "==> soaking for $(MINUTES) minutes"
	@KXL_BUILT='$(BUILT)' $(CARGO) run --release --locked -p kxl-bench -- soak --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

guest:
	@echo "==> the test guest"
	@tests/setup/guest x86_64

# Not every Debian mirror carries arm64: what depends on this guest is then skipped, and says so.
guest-aarch64:
	@echo "==> the test guest for aarch64"
	@tests/setup/guest aarch64 || echo "guest aarch64: not available, tests that need it are skipped"
	@CARGO='$(CARGO)' ARCH=aarch64 tests/setup/build-event target/guest/aarch64 || \
		echo "guest aarch64: no kxl-event for it, tests that need it are skipped"

# For copying into guests; needs: rustup target add aarch64-unknown-linux-musl
event-aarch64:
	@echo "==> kxl-event for guests on aarch64"
	@CARGO='$(CARGO)' ARCH=aarch64 tests/setup/build-event '$(BUILT)/aarch64'

# As root after a build by somebody else, nothing is built again.
install: | $(BUILT)/kxl $(BUILT)/kxl-monitor $(BUILT)/kxl-mock $(BUILT)/kxl-vmm $(BUILT)/kxl-event
	@echo "==> installing into $(DESTDIR)$(PREFIX)"
	@$(PLACE) install

$(BUILT)/kxl $(BUILT)/kxl-monitor $(BUILT)/kxl-mock $(BUILT)/kxl-vmm $(BUILT)/kxl-event:
	@$(MAKE) --no-print-directory build

install-xl:
	@echo "==> linking xl, xm and xen"
	@$(PLACE) install-xl

uninstall:
	@echo "==> uninstalling from $(DESTDIR)$(PREFIX)"
	@$(PLACE) uninstall

fmt:
	@echo "==> formatting"
	@$(CARGO) fmt --all

clippy:
	@echo "==> clippy"
	@$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

clean:
	@echo "==> removing everything that was built, the test guest too"
	@$(CARGO) clean
	@rm -rf target/guest
