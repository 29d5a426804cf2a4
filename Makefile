# mcrun: make demo | test | test-engines | test-vm | chaos | test-upgrade | install | uninstall | lint | fmt | man | bpf | fuzz | bench

SHELL  := /bin/bash
PREFIX ?= /usr/local
DESTDIR ?=

bindir   := $(PREFIX)/bin
mandir   := $(PREFIX)/share/man
unitdir  := $(PREFIX)/lib/systemd/system
cnidir   := $(PREFIX)/lib/cni
# podman has a driver by the name of the file.
avarkdir := $(PREFIX)/lib/netavark
hooksdir := $(PREFIX)/share/containers/oci/hooks.d
docdir   := $(PREFIX)/share/doc/mcrun
# Hooks that containers name themselves.
datadir  := $(PREFIX)/share/mcrun
bashdir  := $(PREFIX)/share/bash-completion/completions
zshdir   := $(PREFIX)/share/zsh/site-functions
fishdir  := $(PREFIX)/share/fish/vendor_completions.d

# .cargo/config.toml names the target, so the binaries are in a directory of its name. Whoever installs
# them need not have rustc: then the newest ones count.
built   = $(or $(CARGO_TARGET_DIR),target)
tuple   = $(shell rustc --print host-tuple 2>/dev/null || \
    ls -t $(built)/*/release/mcrun 2>/dev/null | sed -n '1s|^$(built)/\(.*\)/release/mcrun$$|\1|p')
target  = $(built)/$(tuple)
release = $(if $(tuple),$(target)/release)

binaries := mcrun mcrun-hook mcrun-cni mcrun-dhcp mcrun-netavark mcrun-proxy mcrun-runtime
pages    := $(notdir $(wildcard man/*.[1-8]))
hooks    := $(notdir $(wildcard hooks/mcrun-*.json))
examples := docker/daemon.json containerd/config.toml crio/99-mcrun.conf podman/mcrun.conf \
    cdi/mcrun.yaml kubernetes/runtimeclass.yaml kubernetes/pod.yaml lxc/mcrun.conf systemd-nspawn/mcrun.conf
units    := mcrun-keeper.service mcrun-metrics.service mcrun-docker.service mcrun-docker.socket
monitors := $(wildcard contrib/prometheus/*.yml contrib/grafana/*.json)
docs     := README.md CHANGELOG.md LICENSE-MIT LICENSE-APACHE hooks/config.json
manual   := $(shell find docs -type f)

demo_packages := runc
# What make bench sets beside mcrun, or measures with.
bench_packages := iproute2 procps util-linux python3-minimal docker.io busybox-static containernetworking-plugins igmpproxy smcroute gcc libc6-dev nftables
# All tests in which containers join and leave run once more with proxies as on kernels that do not tell of
# joins. Such a proxy follows the container's reports, and sends none before the kernel's own; nothing else
# is different. These topics of tests/main.rs are left out then: they start no proxy, or start one that is
# configured otherwise (demo); they are about the programs that ask for attachments, about engines, about what
# is made and removed, or about packets, and joins are the same for all of these; they kill at random moments
# (chaos); or they want more than reports alone can tell (haste::bursts).
once := admission architecture attach bad_input chaos cni::errors conflict counting cri delivered demo dependencies dhcp docker_compose docker_network docker_terminal documentation egress \
    engine_docker engine_podman environment generated hand_configured hardening::control_group hardening::descriptors \
    hardening::proxy_user haste::bursts hook_errors in_hand install interface ipv6 leases lifecycle metrics namespace_path netavark networks operate::advice operate::host \
    operate::parents operate::probing options probe records relay_ipv6 relay_kernel relay_limits relay_siblings restart_policy run run_exec run_lifetime run_terminal \
    runtime_commands runtime_containerd runtime_create runtime_docker setup state_lost state_root static_binaries top
# The topics that run in a virtual machine, whose kernel does not tell of joins: see tests/vm.
in_machine := cni::ipvlan docker_ipvlan hardening::cgroup2 ipvlan older_kernel vlan
# Tests that run beside each other: they wait most of the time.
TEST_THREADS ?= 4
# How often a test that has failed beside others runs once more, alone: 1 or 0.
TEST_RETRIES ?= 1
export TEST_RETRIES
test_packages := dnsmasq-base runc crun docker.io containerd podman netavark iptables busybox-static iproute2 nftables tcpdump util-linux libcap2-bin make \
    ufw firewalld dbus-daemon qemu-system-x86 docker-compose mandoc catatonit tmux prometheus prometheus-node-exporter \
    containernetworking-plugins radvd avahi-daemon
# The kernel of the virtual machine in which tests/ipvlan.rs runs.
vm_kernel := linux-image-6.12.*-cloud-amd64

.DEFAULT_GOAL := build
.PHONY: build demo test test-engines test-vm chaos test-upgrade lint fmt man bpf bpf-check count-million prune-ten-minutes fuzz bench install uninstall

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
	TEST_THREADS=$(TEST_THREADS) scripts/test-suite '$(once)' '$(in_machine)'
	@$(MAKE) --no-print-directory test-engines

# The tests that talk to engines once more, with the engines of these Debian releases: sid, trixie.
ENGINE_SUITES ?= sid
test-engines: need-root
	@scripts/need-toolchain
	TEST_THREADS=$(TEST_THREADS) env --default-signal=INT,QUIT scripts/test-engines $(ENGINE_SUITES)

# The tests that want systemd as the first process, in a virtual machine that boots Debian sid.
test-vm: need-root
	@scripts/apt-install qemu-system-x86 e2fsprogs busybox-static binutils
	@scripts/need-toolchain
	env --default-signal=INT,QUIT scripts/test-vm

# Commands, the keeper and proxies are killed at random moments, each so often, in so many seconds at the most.
# CHAOS_SEED repeats a run.
CHAOS_KILLS ?= 500
CHAOS_SECONDS ?= 2400
# Then so much happens to the host's link, its firewall and the proxies, and what is shown as joined is true
# within so many milliseconds. TRUTH_SEED repeats a run.
TRUTH_DISTURBANCES ?= 200
TRUTH_LIMIT ?= 1000
chaos: need-root
	@scripts/apt-install $(test_packages)
	@scripts/need-toolchain
	CHAOS_KILLS=$(CHAOS_KILLS) CHAOS_SECONDS=$(CHAOS_SECONDS) env --default-signal=INT,QUIT \
	    cargo test --locked --test main -- --ignored --exact --nocapture \
	    chaos::everything_is_killed_five_hundred_times_and_leaves_nothing \
	    chaos::pool::five_hundred_kills_lose_and_double_no_address_of_a_pool
	TRUTH_DISTURBANCES=$(TRUTH_DISTURBANCES) TRUTH_LIMIT=$(TRUTH_LIMIT) env --default-signal=INT,QUIT \
	    cargo test --locked --test main -- --exact --nocapture \
	    truth::what_is_shown_as_joined_is_joined_whatever_happens

# Containers of an earlier version, REV, are taken over by this one. scripts/test-upgrade has the default.
test-upgrade: need-root
	@scripts/apt-install $(test_packages)
	@scripts/need-toolchain
	scripts/test-upgrade

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

# Writes man/, completions/ and docs/reference/attachment-keys.md anew from the command line's
# definition and the table of attachment keys.
man:
	MCRUN_REGENERATE=1 cargo test --locked --test main generated:: -- --test-threads=1

# Compiles the BPF programs anew, with the clang of Debian 12. Their objects are committed, so that whoever
# builds mcrun needs no clang.
bpf:
	@scripts/bpf-objects bpf
	cd bpf && sha256sum *.bpf.c *.h *.o >SHA256SUMS

# A million packets, counted beside what the container receives.
count-million:
	cargo test --locked --test main counting:: -- --ignored

# Ten minutes of a container with a router's addresses, behind a switch that forgets after three seconds.
prune-ten-minutes:
	cargo test --locked --test main home_network:: -- --ignored --nocapture

# The committed objects are those of the committed sources.
bpf-check:
	@scripts/bpf-objects --check

# Builds nothing: root need not have cargo. Refuses binaries that are older than their sources.
install:
	@scripts/need-built "$(release)" $(binaries)
	install -d $(addprefix $(DESTDIR),$(bindir) $(cnidir) $(avarkdir) $(hooksdir) $(docdir) $(bashdir) $(zshdir) $(fishdir))
	install -m 0755 $(addprefix $(release)/,$(binaries)) $(DESTDIR)$(bindir)
	ln -sf ../../bin/mcrun-cni $(DESTDIR)$(cnidir)/mcrun-cni
	ln -sf ../../bin/mcrun-netavark $(DESTDIR)$(avarkdir)/mcrun
	for page in $(pages); do \
	    install -D -m 0644 man/$$page $(DESTDIR)$(mandir)/man$${page##*.}/$$page || exit; \
	done
	for unit in $(units); do \
	    install -D -m 0644 contrib/systemd/$$unit $(DESTDIR)$(unitdir)/$$unit || exit; \
	done
	sed -i 's|/usr/local/bin/mcrun|$(bindir)/mcrun|' $(addprefix $(DESTDIR)$(unitdir)/,$(units))
	for file in $(monitors); do \
	    install -D -m 0644 $$file $(DESTDIR)$(docdir)/$$file || exit; \
	done
	install -m 0644 $(docs) $(DESTDIR)$(docdir)
	for file in $(manual); do \
	    install -D -m 0644 $$file $(DESTDIR)$(docdir)/$$file || exit; \
	done
	install -m 0644 completions/mcrun.bash $(DESTDIR)$(bashdir)/mcrun
	install -m 0644 completions/_mcrun $(DESTDIR)$(zshdir)/_mcrun
	install -m 0644 completions/mcrun.fish $(DESTDIR)$(fishdir)/mcrun.fish
	install -m 0644 $(addprefix hooks/,$(hooks)) $(DESTDIR)$(hooksdir)
	for example in $(examples); do \
	    install -D -m 0644 hooks/$$example $(DESTDIR)$(docdir)/$$example || exit; \
	done
	install -D -m 0755 hooks/lxc/start-host $(DESTDIR)$(datadir)/lxc/start-host
	sed -i -e 's|/usr/local/bin/mcrun|$(bindir)/mcrun|g' -e 's|/usr/local/share/mcrun|$(datadir)|g' \
	    $(addprefix $(DESTDIR)$(hooksdir)/,$(hooks)) $(DESTDIR)$(datadir)/lxc/start-host \
	    $(addprefix $(DESTDIR)$(docdir)/,config.json $(examples))

# Also removes the pages and documents of another version.
uninstall:
	rm -f $(addprefix $(DESTDIR)$(bindir)/,$(binaries)) $(DESTDIR)$(cnidir)/mcrun-cni $(DESTDIR)$(avarkdir)/mcrun \
	    $(addprefix $(DESTDIR)$(mandir)/,man?/mcrun.[1-8] man?/mcrun-*.[1-8] man5/mcrun.toml.5) \
	    $(addprefix $(DESTDIR)$(docdir)/,$(notdir $(docs)) $(examples)) \
	    $(addprefix $(DESTDIR)$(unitdir)/,$(units)) $(DESTDIR)$(bashdir)/mcrun $(DESTDIR)$(zshdir)/_mcrun $(DESTDIR)$(fishdir)/mcrun.fish \
	    $(addprefix $(DESTDIR)$(hooksdir)/,$(hooks))
	rm -rf $(DESTDIR)$(docdir)/docs $(DESTDIR)$(docdir)/contrib $(DESTDIR)$(datadir)
	-rmdir $(addprefix $(DESTDIR)$(docdir)/,$(sort $(dir $(examples)))) $(DESTDIR)$(docdir)

.PHONY: need-root
need-root:
	@[ "$$(id -u)" = 0 ] || { echo "root is needed: network namespaces and containers are made" >&2; exit 1; }
