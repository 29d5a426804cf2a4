/*
 * The least that relays a group into a container: what mcrun's relay is measured against.
 *
 *   relay_loop NAMESPACE UPSTREAM INTERFACE GROUP
 *
 * Receives the group on UPSTREAM by a raw socket and puts it into the network namespace, as if it had
 * arrived on INTERFACE there: recvmmsg, a time to live of 0, sendmmsg, in batches and with buffers of the
 * same size as mcrun's. It checks nothing, counts nothing and knows one group. Ends with its parent.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BATCH = 32, SLOT = 64 * 1024 + 64, TURN = 8, RECEIVE_BUFFER = 16 << 20, TTL = 8 };

static void must(int result, const char *what)
{
	if (result < 0) {
		perror(what);
		exit(1);
	}
}

static int receiver(const char *upstream, const char *group)
{
	int fd = socket(AF_INET, SOCK_RAW | SOCK_NONBLOCK, IPPROTO_UDP);
	int size = RECEIVE_BUFFER, off = 0;
	struct ip_mreqn join = { .imr_ifindex = if_nametoindex(upstream) };

	must(fd, "receiver");
	must(setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, upstream, strlen(upstream)), "SO_BINDTODEVICE");
	must(setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)), "SO_RCVBUFFORCE");
	must(setsockopt(fd, IPPROTO_IP, IP_MULTICAST_ALL, &off, sizeof(off)), "IP_MULTICAST_ALL");
	must(inet_pton(AF_INET, group, &join.imr_multiaddr) == 1 ? 0 : -1, group);
	must(setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &join, sizeof(join)), "IP_ADD_MEMBERSHIP");
	return fd;
}

static int sender(const char *namespace, const char *interface)
{
	int target = open(namespace, O_RDONLY | O_CLOEXEC);
	int on = 1;
	struct ip_mreqn out = { 0 };

	must(target, namespace);
	must(setns(target, CLONE_NEWNET), "setns");
	int fd = socket(AF_INET, SOCK_RAW | SOCK_NONBLOCK, IPPROTO_RAW);
	must(fd, "sender");
	must(setsockopt(fd, IPPROTO_IP, IP_HDRINCL, &on, sizeof(on)), "IP_HDRINCL");
	must(setsockopt(fd, IPPROTO_IP, IP_MULTICAST_LOOP, &on, sizeof(on)), "IP_MULTICAST_LOOP");
	out.imr_ifindex = if_nametoindex(interface);
	must(setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &out, sizeof(out)), "IP_MULTICAST_IF");
	return fd;
}

int main(int count, char **words)
{
	static struct mmsghdr headers[BATCH];
	static struct iovec vectors[BATCH];
	struct sockaddr_in all_systems = { .sin_family = AF_INET };

	if (count != 5) {
		fprintf(stderr, "usage: relay_loop NAMESPACE UPSTREAM INTERFACE GROUP\n");
		return 2;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	int in = receiver(words[2], words[4]);
	int out = sender(words[1], words[3]);
	unsigned char *data = mmap(NULL, BATCH * SLOT, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	must(data == MAP_FAILED ? -1 : 0, "mmap");
	/* The route to this one always leads to a member: with a time to live of 0 nothing leaves. */
	all_systems.sin_addr.s_addr = htonl(INADDR_ALLHOSTS_GROUP);
	for (int i = 0; i < BATCH; i++) {
		vectors[i].iov_base = data + i * SLOT;
		headers[i].msg_hdr.msg_iov = &vectors[i];
		headers[i].msg_hdr.msg_iovlen = 1;
	}
	for (;;) {
		struct pollfd readable = { .fd = in, .events = POLLIN };

		poll(&readable, 1, -1);
		for (int turn = 0; turn < TURN; turn++) {
			for (int i = 0; i < BATCH; i++) {
				vectors[i].iov_len = SLOT;
				headers[i].msg_hdr.msg_name = NULL;
				headers[i].msg_hdr.msg_namelen = 0;
			}
			int received = recvmmsg(in, headers, BATCH, MSG_DONTWAIT, NULL);
			if (received <= 0)
				break;
			for (int i = 0; i < received; i++) {
				data[i * SLOT + TTL] = 0;
				vectors[i].iov_len = headers[i].msg_len;
				headers[i].msg_hdr.msg_name = &all_systems;
				headers[i].msg_hdr.msg_namelen = sizeof(all_systems);
			}
			for (int sent = 0; sent < received;) {
				int more = sendmmsg(out, headers + sent, received - sent, MSG_DONTWAIT);
				/* What is refused is left out. */
				sent += more > 0 ? more : 1;
			}
			if (received < BATCH)
				break;
		}
	}
}
