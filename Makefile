# mcrun: make demo | test | install | uninstall | lint | fmt | man | fuzz | bench

SHELL  := /bin/bash
PREFIX ?= /usr/local
DESTDIR ?=

bindir   := $(PREFIX)/bin
mandir   := $(PREFIX)/share/man/man1
hooksdir := $(PREFIX)/share/containers/oci/hooks.d
docdir   := $(PREFIX)/share/doc/mcrun
bashdir  := $(PREFIX)/share/bash-completion/completions
zshdir   := $(PREFIX)/share/zsh/site-functions
fishdir  := $(PREFIX)/share/fish/vendor_completions.d

# .cargo/config.toml names the target, so the binaries are in a directory of its name.
target  = $(or $(CARGO_TARGET_DIR),target)/$(shell rustc --print host-tuple)
release = $(target)/release

binaries := mcrun mcrun-hook mcrun-proxy mcrun-runtime
pages    := $(notdir $(wildcard man/*.1))
hooks    := $(notdir $(wildcard hooks/mcrun-*.json))
examples := docker/daemon.json containerd/config.toml crio/99-mcrun.conf podman/mcrun.conf \
    cdi/mcrun.yaml kubernetes/runtimeclass.yaml kubernetes/pod.yaml
docs     := README.md CHANGELOG.md LICENSE-MIT LICENSE-APACHE hooks/config.json

demo_packages := runc
# What make bench sets beside mcrun, or measures with.
bench_packages := iproute2 util-linux python3-minimal docker.io busybox-static containernetworking-plugins igmpproxy smcroute gcc libc6-dev
# All tests that start a proxy run once more with a proxy as on kernels that do not tell of joins. These
# topics start none, or run in a virtual machine, whose kernel does not tell of joins anyway.
once := delivered dependencies generated install ipvlan options probe readme static_binaries
test_packages := runc crun docker.io containerd podman netavark iptables busybox-static iproute2 nftables tcpdump util-linux libcap2-bin make \
    qemu-system-x86
# The kernel of the virtual machine in which tests/ipvlan.rs runs.
vm_kernel := linux-image-6.12.*-cloud-amd64

.DEFAULT_GOAL := build
.PHONY: build demo test lint fmt man fuzz bench install uninstall

build:
	@scripts/need-toolchain
	cargo build --release --locked

# A media facility in network namespaces of its own, with and without mcrun.
demo: need-root
	@scripts/apt-install $(demo_packages)
	@$(MAKE) --no-print-directory build
	@$(release)/mcrun demo

test: need-root
	@scripts/apt-install $(test_packages)
	@scripts/apt-unpack pimd target/debian
	@scripts/apt-unpack '$(vm_kernel)' target/debian
	@scripts/need-toolchain
	# A shell's background job ignores SIGINT, and so would all that the tests start and interrupt.
	env --default-signal=INT,QUIT cargo test --locked
	MCRUN_TEST_NOTIFICATIONS=off env --default-signal=INT,QUIT \
	    cargo test --locked --test main -- $(addprefix --skip ,$(addsuffix ::,$(once)))

lint:
	@scripts/need-toolchain
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS=-Dwarnings cargo doc --locked --no-deps

fmt:
	cargo fmt

# What mcrun costs and gains, beside its peers, as a table and as JSON.
bench: need-root
	@scripts/apt-install $(bench_packages)
	@$(MAKE) --no-print-directory build
	@benches/bench.py $(release) --json $(target)/bench.json --markdown $(target)/bench.md

# Arbitrary input to everything that reads what strangers send, so many seconds for each target.
FUZZ_SECONDS ?= 300
fuzz:
	@scripts/need-toolchain
	@scripts/apt-install g++
	fuzz/run.sh $(FUZZ_SECONDS)

# Writes man/ and completions/ anew from the command line's definition.
man:
	MCRUN_REGENERATE=1 cargo test --locked --test main generated::

# Builds only when there is nothing to install, so that root need not have cargo.
install:
	@test -x $(release)/mcrun || $(MAKE) --no-print-directory build
	install -d $(addprefix $(DESTDIR),$(bindir) $(mandir) $(hooksdir) $(docdir) $(bashdir) $(zshdir) $(fishdir))
	install -m 0755 $(addprefix $(release)/,$(binaries)) $(DESTDIR)$(bindir)
	install -m 0644 $(addprefix man/,$(pages)) $(DESTDIR)$(mandir)
	install -m 0644 $(docs) $(DESTDIR)$(docdir)
	install -m 0644 completions/mcrun.bash $(DESTDIR)$(bashdir)/mcrun
	install -m 0644 completions/_mcrun $(DESTDIR)$(zshdir)/_mcrun
	install -m 0644 completions/mcrun.fish $(DESTDIR)$(fishdir)/mcrun.fish
	install -m 0644 $(addprefix hooks/,$(hooks)) $(DESTDIR)$(hooksdir)
	for example in $(examples); do \
	    install -D -m 0644 hooks/$$example $(DESTDIR)$(docdir)/$$example || exit; \
	done
	sed -i 's|/usr/local/bin/mcrun-|$(bindir)/mcrun-|g' $(addprefix $(DESTDIR)$(hooksdir)/,$(hooks)) \
	    $(addprefix $(DESTDIR)$(docdir)/,config.json $(examples))

uninstall:
	rm -f $(addprefix $(DESTDIR)$(bindir)/,$(binaries)) \
	    $(addprefix $(DESTDIR)$(mandir)/,$(pages)) \
	    $(addprefix $(DESTDIR)$(docdir)/,$(notdir $(docs)) $(examples)) \
	    $(DESTDIR)$(bashdir)/mcrun $(DESTDIR)$(zshdir)/_mcrun $(DESTDIR)$(fishdir)/mcrun.fish \
	    $(addprefix $(DESTDIR)$(hooksdir)/,$(hooks))
	-rmdir $(addprefix $(DESTDIR)$(docdir)/,$(sort $(dir $(examples)))) $(DESTDIR)$(docdir)

.PHONY: need-root
need-root:
	@[ "$$(id -u)" = 0 ] || { echo "root is needed: network namespaces and containers are made" >&2; exit 1; }
