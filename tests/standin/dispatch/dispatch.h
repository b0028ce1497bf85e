/* The part of libdispatch that ports/vmnet uses, with the same names and types. dispatch.c is behind it. */
#ifndef STANDIN_DISPATCH_H
#define STANDIN_DISPATCH_H

#include <stdint.h>

typedef struct dispatch_queue *dispatch_queue_t;
typedef struct dispatch_semaphore *dispatch_semaphore_t;
typedef void (^dispatch_block_t)(void);
typedef uint64_t dispatch_time_t;

#define NSEC_PER_SEC 1000000000ull
#define DISPATCH_TIME_NOW 0ull

dispatch_queue_t dispatch_queue_create(const char *label, void *attributes);
void dispatch_async(dispatch_queue_t queue, dispatch_block_t block);
void dispatch_sync(dispatch_queue_t queue, dispatch_block_t block);
dispatch_semaphore_t dispatch_semaphore_create(intptr_t value);
intptr_t dispatch_semaphore_signal(dispatch_semaphore_t semaphore);
intptr_t dispatch_semaphore_wait(dispatch_semaphore_t semaphore, dispatch_time_t until);
dispatch_time_t dispatch_time(dispatch_time_t from, int64_t nanoseconds);
void dispatch_retain(void *object);
void dispatch_release(void *object);

#endif
