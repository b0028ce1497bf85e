/* Which thread this is, and whether one has ended: for checks in debug builds. */
#ifndef ARCBOX_NET_THREAD_IDS_H
#define ARCBOX_NET_THREAD_IDS_H

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <unistd.h>

#include "platform.h"

/* 0: this system cannot say whether a thread has ended, so nothing is checked. */
static inline uint32_t abx_thread_id(void) {
#if ABX_MACOS
    return 0;
#else
    return (uint32_t)gettid();
#endif
}

static inline bool abx_thread_has_ended(uint32_t thread) { return kill((pid_t)thread, 0) < 0 && errno == ESRCH; }

#endif
