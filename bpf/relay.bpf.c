/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Relays multicast from an interface of the host to the end of a container's veth link.
 *
 * `relay_inbound` is at the ingress of the upstream interface, before the host's stack and before
 * what takes packets away from the interface (a bridge, a bond, macvlan). It passes a copy of a
 * packet on and leaves the packet as it was. `leave_to_process` is the filter of the socket by which
 * the proxy receives what this program cannot relay: what the host itself sends, which is looped back
 * without an Ethernet header, and what is longer than the container's MTU.
 *
 * `relay_siblings` is at the egress of the upstream interface and passes a copy of what its macvlan
 * children send on. The host's stack never has these packets: a macvlan child reaches the LAN and the other
 * children, and no socket of the host. So what this program cannot relay is dropped.
 *
 * The programs of IPv6 are these, compiled from relay6.bpf.c. What arrives in fragments they leave to the
 * proxy, which gets from its socket what the host's kernel has put together.
 *
 * The copy has the container's MAC address as its destination. So the rules in the container tell
 * what was relayed from what stations of the container's bridge have sent.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "relay.h"

#ifdef RELAY_IPV6
#define ETHERTYPE 0x86dd
#else
#define ETHERTYPE 0x0800
#endif
#define UDP 17
#define ETHERNET_HEADER 14
#define MORE_FRAGMENTS 0x2000
#define OFFSET_MASK 0x1fff
/* linux/if_packet.h */
#define PACKET_OTHERHOST 3
#define PACKET_LOOPBACK 5
/* linux/bpf.h: what follows decides about the packet. */
#define NEXT (-1)
#define DROP 2
#define SECOND 1000000000ull
/* Longer than fragments wait for the rest of their datagram (`net.ipv4.ipfrag_time`, 30 s). */
#define REASSEMBLY (60 * SECOND)
/* Bytes of the IP header without options, and of both headers. */
#ifdef RELAY_IPV6
#define IP_HEADER 40
#else
#define IP_HEADER 20
#endif
#define HEADERS (IP_HEADER + 8)
/* RFC 8200 section 4.5: the header of fragments, whose length is 8. */
#define FRAGMENT 44
#define FRAGMENT_HEADER 8
/* How often a limit is tried while other processors change it. */
#define TRIES 4

/* Who a packet in fragments is for. */
#define UNKNOWN 0
#define KERNEL 1
#define PROCESS 2
#define LIMITED 3

#ifdef RELAY_IPV6
struct ip_header {
	__u32 version_class_label;
	__u16 payload_length;
	__u8 protocol;
	__u8 hop_limit;
	struct relay_address source;
	struct relay_address destination;
} __attribute__((packed));
#else
struct ip_header {
	__u8 version_length;
	__u8 service;
	__u16 length;
	__u16 identification;
	__u16 fragment;
	__u8 ttl;
	__u8 protocol;
	__u16 checksum;
	struct relay_address source;
	struct relay_address destination;
} __attribute__((packed));
#endif

struct frame {
	__u8 destination[6];
	__u8 source[6];
	__u16 protocol;
	struct ip_header ip;
} __attribute__((packed));

/* Maps, in the order in which src/bpf/relay.rs has them. */
struct map {
	__u32 unused;
};
struct map entries SEC(".maps");
struct map settings SEC(".maps");

struct relay_state state;

char LICENSE[] SEC("license") = "Dual MIT/GPL";

#define be16(value) __builtin_bswap16(value)
#define be32(value) __builtin_bswap32(value)

#ifdef RELAY_IPV6
/* To a group that may leave its host. UDP may be behind a header of fragments, or others. */
static __always_inline int is_multicast(const struct ip_header *ip)
{
	__u32 first = ip->destination.word[0];

	return (ip->version_class_label & be32(0xf0000000)) == be32(0x60000000) &&
	       (first & be32(0xff000000)) == be32(0xff000000) && first & be32(0x000e0000);
}

static __always_inline __u32 length_of(const struct ip_header *ip)
{
	return IP_HEADER + be16(ip->payload_length);
}
#else
static __always_inline int is_multicast(const struct ip_header *ip)
{
	return ip->version_length >> 4 == 4 && (ip->version_length & 0x0f) >= 5 &&
	       ip->protocol == UDP &&
	       (ip->destination.word[0] & be32(0xf0000000)) == be32(0xe0000000);
}

static __always_inline __u32 length_of(const struct ip_header *ip)
{
	return be16(ip->length);
}
#endif

static __always_inline struct relay_entry *find(const struct ip_header *ip)
{
	struct relay_key key = { .group = ip->destination, .source = ip->source };
	struct relay_entry *entry = bpf_map_lookup_elem(&entries, &key);

	if (entry)
		return entry;
	__builtin_memset(&key.source, 0, sizeof(key.source));
	return bpf_map_lookup_elem(&entries, &key);
}

static __always_inline struct relay_settings *get_settings(void)
{
	__u32 first = 0;

	return bpf_map_lookup_elem(&settings, &first);
}

#ifdef RELAY_IPV6
struct datagram {
	__u32 words[4];
};

/* `udp` are the eight bytes of its header. */
static __always_inline struct relay_fragmented *fragmented(const struct ip_header *ip,
							   const __u32 *udp, struct datagram *own)
{
	__u32 hash;

	own->words[0] = ip->destination.word[3];
	own->words[1] = ip->source.word[3];
	own->words[2] = udp[0];
	own->words[3] = udp[1];
	hash = (own->words[0] ^ own->words[1] * 0x85ebca6b ^ own->words[2] * 0xc2b2ae35 ^
		own->words[3]) * 0x9e3779b1;
	return &state.fragmented[(hash >> 16) % FRAGMENTED];
}

/* The proxy gets what is put together of these fragments, of which this is the first. */
static __always_inline void leave_datagram(struct __sk_buff *skb, const struct ip_header *ip)
{
	struct relay_fragmented *place;
	struct datagram own;
	__u32 udp[2];

	if (bpf_skb_load_bytes(skb, ETHERNET_HEADER + IP_HEADER + FRAGMENT_HEADER, udp, sizeof(udp)))
		return;
	place = fragmented(ip, udp, &own);
	place->words[0] = own.words[0];
	place->words[1] = own.words[1];
	place->words[2] = own.words[2];
	place->words[3] = own.words[3];
	place->fate = PROCESS;
}

/* Whether a datagram was left to the proxy, of which its socket asks once. */
static __always_inline int take_datagram(struct __sk_buff *skb, const struct ip_header *ip)
{
	struct relay_fragmented *place;
	struct datagram own;
	__u32 udp[2];

	if (bpf_skb_load_bytes_relative(skb, IP_HEADER, udp, sizeof(udp), BPF_HDR_START_NET))
		return 0;
	place = fragmented(ip, udp, &own);
	if (place->fate != PROCESS || place->words[0] != own.words[0] ||
	    place->words[1] != own.words[1] || place->words[2] != own.words[2] ||
	    place->words[3] != own.words[3])
		return 0;
	place->fate = UNKNOWN;
	return 1;
}
#else
static __always_inline struct relay_fragmented *fragmented(const struct ip_header *ip)
{
	__u32 hash = (ip->destination.word[0] ^ ip->source.word[0] * 0x85ebca6b ^
		      ip->identification) * 0x9e3779b1;

	return &state.fragmented[(hash >> 16) % FRAGMENTED];
}

static __always_inline void remember(const struct ip_header *ip, __u16 fate)
{
	struct relay_fragmented *datagram = fragmented(ip);

	datagram->group = ip->destination.word[0];
	datagram->source = ip->source.word[0];
	datagram->identification = ip->identification;
	datagram->fate = fate;
}

static __always_inline __u16 recall(const struct ip_header *ip)
{
	const struct relay_fragmented *datagram = fragmented(ip);
	int is_same = datagram->group == ip->destination.word[0] &&
		      datagram->source == ip->source.word[0] &&
		      datagram->identification == ip->identification;

	return is_same ? datagram->fate : UNKNOWN;
}
#endif

/* Whether a limit that is used up at `due` has room for what takes `time`. */
static __always_inline int has_room(__u64 due, __u64 time, __u64 burst, __u64 now)
{
	__u64 used = due > now ? due - now : 0;

	/* What is more than a burst passes when nothing is used. */
	return used + (time < burst ? time : burst) <= burst;
}

/* Takes room, if there is some. What other processors take meanwhile may be too much for it. */
static __always_inline int take(__u64 *due, __u64 time, __u64 burst, __u64 now, int is_checked)
{
	int i;

#pragma unroll
	for (i = 0; i < TRIES; i++) {
		__u64 before = *(volatile __u64 *)due;
		__u64 start = before > now ? before : now;

		if (is_checked && !has_room(before, time, burst, now))
			return 0;
		if (__sync_val_compare_and_swap(due, before, start + time) == before)
			return 1;
	}
	return 1;
}

/* Whether so many packets of so many bytes may pass. A part of one that passes is not refused. */
static __always_inline int admit(const struct relay_settings *s, __u32 packets, __u32 bytes,
				 int is_first)
{
	__u64 byte_time, now;

	if (!s->packet_time && !s->byte_rate)
		return 1;
	now = bpf_ktime_get_ns();
	byte_time = s->byte_rate ? bytes * SECOND / s->byte_rate : 0;
	if (is_first && s->byte_rate && !has_room(state.bytes_due, byte_time, s->byte_burst, now))
		return 0;
	if (s->packet_time &&
	    !take(&state.packets_due, packets * s->packet_time, s->packet_burst, now, is_first))
		return 0;
	if (s->byte_rate)
		take(&state.bytes_due, byte_time, s->byte_burst, now, 0);
	return 1;
}

/* Passes a copy on, and leaves the packet as it was. */
static __always_inline int pass_on(struct __sk_buff *skb, const struct frame *frame,
				   const struct relay_settings *s, struct relay_entry *entry,
				   __u32 packets)
{
	long failed;

	if (bpf_skb_store_bytes(skb, 0, s->mac, sizeof(s->mac), 0)) {
		__sync_fetch_and_add(&entry->dropped, packets);
		return NEXT;
	}
	failed = bpf_clone_redirect(skb, s->peer, 0);
	if (failed)
		__sync_fetch_and_add(&entry->dropped, packets);
	else
		__sync_fetch_and_add(&entry->relayed, packets);
	/* Without memory to write its own address back, the packet would be taken for another one. */
	if (bpf_skb_store_bytes(skb, 0, frame->destination, sizeof(frame->destination), 0))
		return DROP;
	return NEXT;
}

/* What arrives at the upstream interface, and what its children send there. */
#define ARRIVES 0
#define IS_SENT 1

#ifdef RELAY_IPV6
/* Passes on a fragment that no socket of the host gets. All but the last are as long as the first. */
static __always_inline int pass_fragment_on(struct __sk_buff *skb, const struct frame *frame,
					    const struct relay_settings *s,
					    struct relay_entry *entry, __u32 length)
{
	struct {
		__u8 protocol;
		__u8 reserved;
		__u16 offset;
		__u32 identification;
	} header;
	int is_first;

	if (bpf_skb_load_bytes(skb, ETHERNET_HEADER + IP_HEADER, &header, sizeof(header)) ||
	    header.protocol != UDP)
		return NEXT;
	is_first = !(header.offset & be16(0xfff8));
	if (length > s->mtu) {
		__sync_fetch_and_add(&entry->dropped, is_first);
		return NEXT;
	}
	if (!admit(s, 1, length, is_first)) {
		__sync_fetch_and_add(&entry->limited, 1);
		return NEXT;
	}
	return pass_on(skb, frame, s, entry, is_first);
}
#endif

static __always_inline int is_childs(const struct frame *frame, const struct relay_settings *s)
{
	int is_parents = 1;
	int i;

	if (!s->has_upstream_mac)
		return 0;
#pragma unroll
	for (i = 0; i < 6; i++)
		is_parents &= frame->source[i] == s->upstream_mac[i];
	return !is_parents;
}

static __always_inline int relay(struct __sk_buff *skb, int way)
{
	struct frame frame;
	struct relay_settings *s;
	struct relay_entry *entry;
	__u32 length, segment, packets = 1;
	__u16 fate = KERNEL;

	if (skb->protocol != be16(ETHERTYPE) || skb->vlan_present)
		return NEXT;
	if (way == ARRIVES && skb->pkt_type >= PACKET_OTHERHOST)
		return NEXT;
	if (bpf_skb_load_bytes(skb, 0, &frame, sizeof(frame)) || !is_multicast(&frame.ip))
		return NEXT;
	entry = find(&frame.ip);
	if (!entry || entry->verdict != ADMIT)
		return NEXT;
	s = get_settings();
	if (!s)
		return NEXT;
	if (way == IS_SENT && (!s->peer || !is_childs(&frame, s)))
		return NEXT;
	if (!s->peer) {
		state.left_at = bpf_ktime_get_ns();
		return NEXT;
	}
	length = length_of(&frame.ip);
	if (length + ETHERNET_HEADER > skb->len)
		return NEXT;
	segment = skb->gso_size;
#ifdef RELAY_IPV6
	if (frame.ip.protocol == FRAGMENT) {
		if (way == IS_SENT)
			return pass_fragment_on(skb, &frame, s, entry, length);
		leave_datagram(skb, &frame.ip);
	}
	if (frame.ip.protocol != UDP)
		return NEXT;
#else
	{
		__u32 fragment = be16(frame.ip.fragment);

		if (fragment & OFFSET_MASK) {
			fate = recall(&frame.ip);
			if (fate == PROCESS || fate == LIMITED)
				return NEXT;
			admit(s, 1, length, 0);
			return pass_on(skb, &frame, s, entry, 0);
		}
	}
#endif
	/* A neighbour can say of a packet of any length that it is to be segmented. */
	if (segment && length > HEADERS + segment)
		packets = (length - HEADERS + segment - 1) / segment;
	if (!segment && length > s->mtu) {
		fate = PROCESS;
		if (way == IS_SENT)
			__sync_fetch_and_add(&entry->dropped, packets);
		else
			state.left_at = bpf_ktime_get_ns();
	} else if (!admit(s, packets, length, 1)) {
		fate = LIMITED;
	}
#ifndef RELAY_IPV6
	if (be16(frame.ip.fragment) & MORE_FRAGMENTS)
		remember(&frame.ip, fate);
#endif
	if (fate == LIMITED)
		__sync_fetch_and_add(&entry->limited, packets);
	if (fate != KERNEL)
		return NEXT;
	return pass_on(skb, &frame, s, entry, packets);
}

SEC("tcx")
int relay_inbound(struct __sk_buff *skb)
{
	return relay(skb, ARRIVES);
}

SEC("tcx/egress")
int relay_siblings(struct __sk_buff *skb)
{
	return relay(skb, IS_SENT);
}

SEC("socket")
int leave_to_process(struct __sk_buff *skb)
{
	struct ip_header ip;
	struct relay_settings *s;
	struct relay_entry *entry;

	if (bpf_skb_load_bytes_relative(skb, 0, &ip, sizeof(ip), BPF_HDR_START_NET) ||
	    !is_multicast(&ip))
		return 0;
	s = get_settings();
	if (!s)
		return 0;
	entry = find(&ip);
	if (!entry)
		return s->is_incomplete ? -1 : 0;
	if (entry->verdict != ADMIT)
		return 0;
	if (s->peer && skb->pkt_type != PACKET_LOOPBACK) {
#ifdef RELAY_IPV6
		/* Behind other headers than that of fragments, nothing is relayed. */
		if (ip.protocol == UDP && (length_of(&ip) <= s->mtu || skb->gso_size) &&
		    !take_datagram(skb, &ip))
			return 0;
#else
		__u16 fate;

		if (length_of(&ip) <= s->mtu || skb->gso_size)
			return 0;
		/* Longer than the MTU, as it arrived or because it was put together. */
		fate = recall(&ip);
		if (fate == KERNEL || fate == LIMITED)
			return 0;
		/*
		 * Others have taken the place of what was decided. Nothing was left to the process: this
		 * was relayed in fragments.
		 */
		if (fate == UNKNOWN &&
		    (!state.left_at || bpf_ktime_get_ns() - state.left_at > REASSEMBLY))
			return 0;
#endif
	}
	return -1;
}
