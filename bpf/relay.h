/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * What the programs of the relay and the proxy share. src/bpf/relay.rs has the same layouts.
 *
 * The programs of IPv6 are these with RELAY_IPV6.
 */
#ifndef MCRUN_RELAY_H
#define MCRUN_RELAY_H

#include <linux/types.h>

/* A group and a source, in network byte order. Source 0 is every source without an entry of its own. */
#ifdef RELAY_IPV6
struct relay_address {
	__u32 word[4];
};
#else
struct relay_address {
	__u32 word[1];
};
#endif

struct relay_key {
	struct relay_address group;
	struct relay_address source;
};

#define ADMIT 1
#define REFUSE 2

/* Whether packets pass, and how many did. The proxy writes the verdict. */
struct relay_entry {
	__u64 verdict;
	__u64 relayed;
	/* Above the rate limit. */
	__u64 limited;
	/* The kernel has refused them. */
	__u64 dropped;
};

/* What the proxy sets. */
struct relay_settings {
	/*
	 * Index of the host's end of the container's veth link. 0: there is none, and the proxy
	 * relays all packets.
	 */
	__u32 peer;
	/* MTU of the container's end. A packet that is longer is for the proxy, which divides it. */
	__u32 mtu;
	/* Address of the container's end. */
	__u8 mac[6];
	/* Some groups have no entry: packets of unknown groups are for the proxy. */
	__u8 is_incomplete;
	/* `upstream_mac` is known: what others send by the upstream interface is that of its macvlan children. */
	__u8 has_upstream_mac;
	/* Nanoseconds that a packet takes, and those of the longest burst; 0: no limit. */
	__u64 packet_time;
	__u64 packet_burst;
	/* Bytes a second, and the nanoseconds of the longest burst; 0: no limit. */
	__u64 byte_rate;
	__u64 byte_burst;
	/* Address of the upstream interface. */
	__u8 upstream_mac[6];
	__u8 unused[2];
};

/* Datagrams in fragments that are remembered. A power of two. */
#define FRAGMENTED 256

/* A datagram whose fragments arrive, and what was decided of the first. */
struct relay_fragmented {
#ifdef RELAY_IPV6
	/*
	 * What is put together is not told by the identification, which has gone by then: by the last words
	 * of the addresses, and by ports, length and checksum.
	 */
	__u32 words[4];
#else
	__u32 group;
	__u32 source;
	__u16 identification;
#endif
	__u16 fate;
};

struct relay_state {
	/* CLOCK_MONOTONIC in nanoseconds at which the limits have been used up. */
	__u64 packets_due;
	__u64 bytes_due;
	/* CLOCK_MONOTONIC in nanoseconds at which a packet was left to the proxy. */
	__u64 left_at;
	struct relay_fragmented fragmented[FRAGMENTED];
};

#endif
