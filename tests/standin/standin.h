/* How tests drive the stand-in: what fails, what the system is like, and the other end of each interface. */
#ifndef STANDIN_H
#define STANDIN_H

#include <stdint.h>

/* The next *times* calls of *function* (or its completion, for those that have one) end with *status*; -1: all. */
void standin_fail(const char *function, uint32_t status, int times);
/* The completion handlers of *function* are not called until standin_reset, which calls them. */
void standin_hold(const char *function);
/* At most so many packets in one call, and bytes in one. 0: as it was. */
void standin_limits(uint64_t read_max, uint64_t write_max, uint64_t max_packet_bytes);
/* A read returns at most so many packets, a write takes at most so many. */
void standin_short(int packets);
/* Nothing fails, nothing is held, no limits of the test's; interfaces stay. */
void standin_reset(void);
/* How many completion handlers are held. */
int standin_held(void);
/* How many interfaces were started and are not stopped. */
int standin_running(void);
/* The other end of the interface that was started last: a SOCK_SEQPACKET socket of packets, the caller's to close. */
int standin_far_end(void);
/* What the interface that was started last was asked for, as text; an empty one if the key was not there. */
void standin_asked(const char *key, char *text, int size);
/* What the network that was created last is, a line for each call that shaped it. */
void standin_network(char *text, int size);

#endif
