/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The table of streams that the counting program writes and the proxy reads.
 *
 * src/stream_count/table.rs has the same layout. A change of it is a new LAYOUT there.
 */
#ifndef MCRUN_COUNT_H
#define MCRUN_COUNT_H

#include <linux/types.h>

/* Streams that share a place by their hash. Powers of two. */
#define WAYS 4
#define SETS 64

/* What arrives for one group from one source, to one port. */
struct stream {
	/* Odd while the place is given to another stream; 0: the place is free. */
	__u32 version;
	__u32 interface;
	/* Network byte order. */
	__u32 group;
	__u32 source;
	/* Destination port in host byte order; 0: fragments after the first. */
	__u16 port;
	/* Highest RTP sequence number. */
	__u16 highest;
	__u32 ssrc;
	/* Datagrams, and the bytes of their UDP payload. */
	__u64 packets;
	__u64 bytes;
	/* CLOCK_MONOTONIC in nanoseconds, to the timer tick. */
	__u64 last;
	/* The window in which the rate is measured, and the whole one before it. */
	__u64 window_start;
	__u64 window_packets;
	__u64 window_bytes;
	__u64 before_time;
	__u64 before_packets;
	__u64 before_bytes;
	/* RTP packets of the SSRC that the packet before had. */
	__u64 rtp;
	__u64 lost;
	__u64 reordered;
	__u64 duplicated;
	__u32 ssrc_changes;
	__u32 restarts;
	/* Bit n: the number that is n below the highest has arrived. */
	__u64 seen;
	/* The number that confirms a restart, behind bit 16. */
	__u32 restart_at;
	/* Distance from the first number to the highest, up to 63. */
	__u16 span;
	__u8 payload_type;
	__u8 has_rtp;
};

struct table {
	/* Streams that have lost their place to another one. */
	__u64 evicted;
	/* Packets of streams that have found no place. */
	__u64 refused;
	/* Always 0, which the verifier cannot know. */
	__u64 zero;
	struct stream streams[SETS * WAYS];
};

#endif
