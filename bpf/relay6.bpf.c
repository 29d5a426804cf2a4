/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The programs of relay.bpf.c for IPv6. */
#define RELAY_IPV6 1
#include "relay.bpf.c"
