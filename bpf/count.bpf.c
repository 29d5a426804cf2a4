/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Counts the multicast streams that arrive at an interface.
 *
 * A filter of an AF_PACKET socket of type SOCK_DGRAM that is bound to the interface and to
 * ETH_P_IP: the packet begins with the IPv4 header. The filter takes no packet, so nothing is ever
 * queued. src/stream_count is the same arithmetic in Rust, and the tests run both with the same
 * bytes.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "count.h"

#define UDP 17
#define MORE_FRAGMENTS 0x2000
#define OFFSET_MASK 0x1fff
/* A step above this is a restart and no loss (MAX_DROPOUT of RFC 3550 A.1). */
#define MAX_DROPOUT 3000
/* Numbers below the highest that are still told apart. */
#define WINDOW 64
#define RESTART_EXPECTED 0x10000
#define RATE_WINDOW 1000000000ull
/* A stream of so many packets keeps its place, unless it is silent for so long. */
#define ESTABLISHED 16
#define SILENCE 30000000000ull
/* linux/if_packet.h */
#define PACKET_HOST 0
/* For another host or another VLAN: the kernel drops it. */
#define PACKET_OTHERHOST 3

struct ip_header {
	__u8 version_length;
	__u8 service;
	__u16 length;
	__u16 identification;
	__u16 fragment;
	__u8 ttl;
	__u8 protocol;
	__u16 checksum;
	__u32 source;
	__u32 destination;
};

struct udp_rtp_header {
	__u16 source;
	__u16 destination;
	__u16 length;
	__u16 checksum;
	__u8 flags;
	__u8 payload_type;
	__u16 sequence;
	__u32 timestamp;
	__u32 ssrc;
};

#define UDP_HEADER 8
#define RTP_HEADER 12

/* What is counted of one packet. */
struct datagram {
	__u32 interface;
	__u32 group;
	__u32 source;
	__u32 port;
	__u32 packets;
	__u32 bytes;
	__u32 ssrc;
	__u16 sequence;
	/* The sequence number of the last of several datagrams in one packet. */
	__u16 last_sequence;
	__u8 payload_type;
	__u8 is_rtp;
};

struct table table;

/*
 * The same number, which the verifier does not know any more. It follows what comes next once, and
 * not once for each number.
 */
static __always_inline __u32 unknown(__u32 number)
{
	number ^= table.zero;
	asm volatile("" : "+r"(number));
	return number;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";

#define be16(value) __builtin_bswap16(value)
#define be32(value) __builtin_bswap32(value)

static __always_inline int parse_rtp(struct __sk_buff *skb, struct datagram *d, __u32 at,
				     __u32 payload, const struct udp_rtp_header *h)
{
	__u32 need = RTP_HEADER + 4 * (h->flags & 0x0f) + ((h->flags & 0x10) ? 4 : 0);
	__u8 type = h->payload_type & 0x7f;
	__u32 segment = skb->gso_size;

	/* 72 to 76 is RTCP (RFC 5761 section 4). */
	if (h->flags >> 6 != 2 || payload < need || (type >= 72 && type <= 76))
		return 0;
	d->ssrc = be32(h->ssrc);
	d->sequence = be16(h->sequence);
	d->last_sequence = d->sequence;
	d->payload_type = type;
	if (segment && segment < payload) {
		/* Datagrams that the sender or the card left together: their numbers follow one another. */
		__u32 count = (payload + segment - 1) / segment;
		__u16 last;

		if (bpf_skb_load_bytes(skb, at + UDP_HEADER + (count - 1) * segment + 2, &last, 2))
			return 0;
		if ((__u16)(be16(last) - d->sequence) != (__u16)(count - 1))
			return 0;
		d->last_sequence = be16(last);
	}
	return 1;
}

static __always_inline int parse(struct __sk_buff *skb, struct datagram *d)
{
	struct ip_header ip;
	struct udp_rtp_header h = {};
	__u32 at, length, fragment, payload, segment;

	if (bpf_skb_load_bytes(skb, 0, &ip, sizeof(ip)))
		return 0;
	at = (ip.version_length & 0x0f) * 4;
	length = be16(ip.length);
	if (ip.version_length >> 4 != 4 || at < sizeof(ip) || length < at || length > skb->len)
		return 0;
	if (ip.protocol != UDP || (ip.destination & be32(0xf0000000)) != be32(0xe0000000))
		return 0;
	d->interface = skb->ifindex;
	d->group = ip.destination;
	d->source = ip.source;
	fragment = be16(ip.fragment);
	payload = length - at;
	if (fragment & OFFSET_MASK) {
		/* The datagram was counted with its first fragment. */
		d->port = 0;
		d->packets = 0;
		d->bytes = payload;
		d->is_rtp = 0;
		return 1;
	}
	if (payload < UDP_HEADER)
		return 0;
	if (payload >= sizeof(h)) {
		if (bpf_skb_load_bytes(skb, at, &h, sizeof(h)))
			return 0;
	} else if (bpf_skb_load_bytes(skb, at, &h, UDP_HEADER)) {
		return 0;
	}
	if (!(fragment & MORE_FRAGMENTS)) {
		__u32 udp = be16(h.length);

		if (udp < UDP_HEADER || udp > payload)
			return 0;
		payload = udp;
	}
	payload -= UDP_HEADER;
	segment = skb->gso_size;
	d->port = be16(h.destination);
	d->packets = segment && segment < payload ? (payload + segment - 1) / segment : 1;
	d->bytes = payload;
	d->is_rtp = payload >= RTP_HEADER && parse_rtp(skb, d, at, payload, &h);
	return 1;
}

static __always_inline void begin_sequence(struct stream *s, const struct datagram *d)
{
	s->ssrc = d->ssrc;
	s->highest = d->last_sequence;
	s->seen = 1;
	s->span = 0;
	s->restart_at = 0;
}

static __always_inline void count_rtp(struct stream *s, const struct datagram *d)
{
	__u16 step, back;

	s->payload_type = d->payload_type;
	if (!s->has_rtp || s->ssrc != d->ssrc) {
		if (s->has_rtp)
			s->ssrc_changes++;
		s->has_rtp = 1;
		begin_sequence(s, d);
		return;
	}
	s->rtp++;
	step = d->sequence - s->highest;
	back = -step;
	if (step < 0x8000 ? step > MAX_DROPOUT : back >= WINDOW) {
		if (s->restart_at != (RESTART_EXPECTED | d->sequence)) {
			s->restart_at = RESTART_EXPECTED | (__u16)(d->last_sequence + 1);
			s->duplicated++;
			return;
		}
		/* The one before was the first of the new numbering, and no duplicate. */
		s->duplicated--;
		s->restarts++;
		begin_sequence(s, d);
		s->seen = 3;
		s->span = 1;
		return;
	}
	s->restart_at = 0;
	if (step && step < 0x8000) {
		__u16 all = d->last_sequence - s->highest;
		__u32 span = s->span + (__u32)all;

		s->lost += step - 1;
		s->seen = all < WINDOW ? s->seen << all : 0;
		s->seen |= 1;
		if (all > step) {
			/* Those between the first and the last. */
			__u32 more = all - step;

			s->seen |= more < WINDOW - 1 ? (2ull << more) - 1 : ~0ull;
		}
		s->span = span < WINDOW ? span : WINDOW - 1;
		s->highest = d->last_sequence;
		return;
	}
	if (s->seen >> (back & 63) & 1) {
		s->duplicated++;
		return;
	}
	s->seen |= 1ull << (back & 63);
	s->reordered++;
	if (back <= s->span) {
		if (s->lost)
			s->lost--;
	} else {
		/* Sent before the first that arrived. */
		__u32 missing = back - s->span - 1;

		s->lost += missing;
		s->span = back;
	}
}

static __always_inline void count(struct stream *s, const struct datagram *d, __u64 now)
{
	__u64 time = now - s->window_start;

	__sync_fetch_and_add(&s->packets, d->packets);
	__sync_fetch_and_add(&s->bytes, d->bytes);
	s->last = now;
	if (time >= RATE_WINDOW) {
		s->before_time = time;
		s->before_packets = s->window_packets;
		s->before_bytes = s->window_bytes;
		s->window_start = now;
		s->window_packets = 0;
		s->window_bytes = 0;
	}
	s->window_packets += d->packets;
	s->window_bytes += d->bytes;
	if (d->is_rtp)
		count_rtp(s, d);
}

/* The first place of the streams with this hash. */
static __always_inline __u32 place(const struct datagram *d)
{
	__u32 hash = (d->group ^ d->source * 0x85ebca6b ^ (d->port ^ d->interface << 16)) * 0x9e3779b1;

	hash ^= hash >> 15;
	hash *= 0x2c1b3c6d;
	return (hash >> 20) % SETS * WAYS;
}

/*
 * 1 for a number below 0, otherwise 0. The compiler would make a branch of a comparison, and the
 * verifier would follow both ways of each.
 */
static __always_inline __u64 is_negative(__s64 number)
{
	asm("%0 >>= 63" : "+r"(number));
	return number;
}

/* The way of the set that the stream has; WAYS: none. A free place has no group. */
static __always_inline __u32 find(const struct stream *set, const struct datagram *d)
{
	__u32 way;

#pragma nounroll
	for (way = 0; way < WAYS; way++) {
		const struct stream *s = &set[way];
		__u32 differs = (s->group ^ d->group) | (s->source ^ d->source) |
				(s->port ^ d->port) | (s->interface ^ d->interface) |
				(s->version & 1);

		if (!differs)
			break;
	}
	return way;
}

/* Above the key of each way that a new stream may have. */
#define TAKEN (~0ull >> 1)

/*
 * The way of the set that is for a new stream: a free one, or that of the stream that was silent
 * longest among those that may lose theirs. So a sender of many streams takes no place of one that
 * flows. WAYS: there is none.
 */
static __always_inline __u32 choose(const struct stream *set, __u64 now)
{
	__u64 lowest = TAKEN;

#pragma nounroll
	for (__u64 i = 0; i < WAYS; i++) {
		__u64 last = set[i].last * is_negative(-(__s64)set[i].version);
		__u64 is_established = is_negative(ESTABLISHED - 1 - (__s64)set[i].packets);
		__u64 is_heard = is_negative((__s64)(now - last) - (__s64)SILENCE);
		__u64 key = (last & ~(WAYS - 1ull)) | i | (-(is_established & is_heard) >> 1);

		lowest += (key - lowest) * is_negative(key - lowest);
	}
	return lowest == TAKEN ? WAYS : lowest & (WAYS - 1);
}

/* Gives a place to a new stream. 0: it is being given to another one. */
static __always_inline int replace(struct stream *s, const struct datagram *d, __u64 now)
{
	__u32 version = s->version;

	if (version & 1 || __sync_val_compare_and_swap(&s->version, version, version + 1) != version)
		return 0;
	if (version)
		__sync_fetch_and_add(&table.evicted, 1);
	s->interface = d->interface;
	s->group = d->group;
	s->source = d->source;
	s->port = d->port;
	s->packets = 0;
	s->bytes = 0;
	s->last = now;
	s->window_start = now;
	s->window_packets = 0;
	s->window_bytes = 0;
	s->before_time = 0;
	s->before_packets = 0;
	s->before_bytes = 0;
	s->rtp = 0;
	s->lost = 0;
	s->reordered = 0;
	s->duplicated = 0;
	s->ssrc_changes = 0;
	s->restarts = 0;
	s->has_rtp = 0;
	__sync_fetch_and_add(&s->version, 1);
	return 1;
}

static __always_inline int count_packet(struct __sk_buff *skb)
{
	struct datagram d = {};
	struct stream *set, *s;
	__u32 first, way;
	int is_new = 0;
	__u64 now;

	if (!parse(skb, &d))
		return 0;
	d.is_rtp = unknown(d.is_rtp);
	if (skb->pkt_type == PACKET_OTHERHOST)
		return 0;
	now = bpf_ktime_get_coarse_ns();
	first = place(&d);
	set = &table.streams[first];
	way = find(set, &d);
	if (way >= WAYS) {
		way = choose(set, now);
		is_new = 1;
		if (way >= WAYS) {
			__sync_fetch_and_add(&table.refused, 1);
			return 0;
		}
	}
	s = &table.streams[(first + unknown(way)) % (SETS * WAYS)];
	if (!is_new || replace(s, &d, now))
		count(s, &d, now);
	return 0;
}

SEC("socket")
int count_streams(struct __sk_buff *skb)
{
	return count_packet(skb);
}

/*
 * At a link that the kernel relays to: what relay.bpf.c passes on has the link's own MAC address. The
 * rules drop other multicast.
 */
SEC("relayed")
int count_relayed(struct __sk_buff *skb)
{
	return skb->pkt_type == PACKET_HOST ? count_packet(skb) : 0;
}
