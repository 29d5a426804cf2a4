//! The integration tests: one program, with a module for each topic, so that the lab is compiled
//! and linked once. A test is called `topic::name`.

// `pub` says what a module is for others; the program itself has no users.
#![allow(unreachable_pub)]

mod admission;
mod architecture;
mod attach;
mod bad_input;
mod blackout;
mod chaos;
mod counting;
mod cri;
mod delivered;
mod demo;
mod dependencies;
mod docker_terminal;
mod documentation;
mod egress;
mod engine_docker;
mod engine_podman;
mod engine_relay;
mod environment;
mod firewall;
mod generated;
mod hand_configured;
mod hardening;
mod haste;
mod hook_errors;
mod igmp_modes;
mod in_hand;
mod install;
mod interface;
mod ipvlan;
mod keeper;
mod keeper_fd_store;
mod kept_state;
mod lab;
mod late_interfaces;
mod lifecycle;
mod machine;
mod namespace_path;
mod networks;
mod operate;
mod options;
mod peers;
mod policy;
mod port_security;
mod probe;
mod prompt;
mod proxy;

mod records;
mod relay;
mod relay_limits;
mod relay_parent;
mod restart_policy;
mod rogue;
mod run;
mod run_exec;
mod run_lifetime;
mod run_terminal;
mod runtime_commands;
mod runtime_containerd;
mod runtime_docker;
mod scale;
mod setup;
mod ssm;
mod state_lost;
mod state_root;
mod static_binaries;
mod terminal;
mod timing;
mod upgrade;
mod vlan;
mod vm;
