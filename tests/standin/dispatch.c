/* Serial queues, each a thread that calls copies of blocks in turn, and semaphores with a time limit. */
#include <Block.h>
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include <dispatch/dispatch.h>

enum kind { QUEUE, SEMAPHORE };

struct object { /* first in both */
    enum kind kind;
    atomic_int references;
};

struct job {
    struct job *next;
    dispatch_block_t block;
};

struct dispatch_queue {
    struct object object;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct job *first, **end;
    int ending;
};

struct dispatch_semaphore {
    struct object object;
    sem_t count;
};

static void *work(void *argument)
{
    dispatch_queue_t queue = argument;
    pthread_mutex_lock(&queue->lock);
    while (queue->first || !queue->ending) {
        struct job *job = queue->first;
        if (!job) {
            pthread_cond_wait(&queue->changed, &queue->lock);
            continue;
        }
        queue->first = job->next;
        if (!queue->first)
            queue->end = &queue->first;
        pthread_mutex_unlock(&queue->lock);
        job->block();
        Block_release(job->block);
        free(job);
        pthread_mutex_lock(&queue->lock);
    }
    pthread_mutex_unlock(&queue->lock);
    pthread_cond_destroy(&queue->changed);
    pthread_mutex_destroy(&queue->lock);
    free(queue);
    return NULL;
}

dispatch_queue_t dispatch_queue_create(const char *label, void *attributes)
{
    dispatch_queue_t queue = calloc(1, sizeof(*queue));
    pthread_t thread;
    (void)label;
    (void)attributes;
    queue->object.kind = QUEUE;
    queue->object.references = 1;
    queue->end = &queue->first;
    pthread_mutex_init(&queue->lock, NULL);
    pthread_cond_init(&queue->changed, NULL);
    pthread_create(&thread, NULL, work, queue);
    pthread_detach(thread);
    return queue;
}

void dispatch_async(dispatch_queue_t queue, dispatch_block_t block)
{
    struct job *job = calloc(1, sizeof(*job));
    job->block = Block_copy(block);
    pthread_mutex_lock(&queue->lock);
    *queue->end = job;
    queue->end = &job->next;
    pthread_cond_signal(&queue->changed);
    pthread_mutex_unlock(&queue->lock);
}

void dispatch_sync(dispatch_queue_t queue, dispatch_block_t block)
{
    dispatch_semaphore_t done = dispatch_semaphore_create(0);
    dispatch_async(queue, ^{
      block();
      dispatch_semaphore_signal(done);
    });
    dispatch_semaphore_wait(done, ~0ull);
    dispatch_release(done);
}

dispatch_semaphore_t dispatch_semaphore_create(intptr_t value)
{
    dispatch_semaphore_t semaphore = calloc(1, sizeof(*semaphore));
    semaphore->object.kind = SEMAPHORE;
    semaphore->object.references = 1;
    sem_init(&semaphore->count, 0, (unsigned)value);
    return semaphore;
}

intptr_t dispatch_semaphore_signal(dispatch_semaphore_t semaphore)
{
    sem_post(&semaphore->count);
    return 0;
}

dispatch_time_t dispatch_time(dispatch_time_t from, int64_t nanoseconds)
{
    struct timespec now;
    (void)from;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * NSEC_PER_SEC + (uint64_t)now.tv_nsec + (uint64_t)nanoseconds;
}

intptr_t dispatch_semaphore_wait(dispatch_semaphore_t semaphore, dispatch_time_t until)
{
    struct timespec limit = {(time_t)(until / NSEC_PER_SEC), (long)(until % NSEC_PER_SEC)};
    int result;
    do
        result = until == ~0ull ? sem_wait(&semaphore->count)
                                : sem_clockwait(&semaphore->count, CLOCK_MONOTONIC, &limit);
    while (result && errno == EINTR);
    return result;
}

void dispatch_retain(void *object)
{
    ((struct object *)object)->references++;
}

void dispatch_release(void *object)
{
    dispatch_queue_t queue = object;
    if (--((struct object *)object)->references)
        return;
    if (((struct object *)object)->kind == SEMAPHORE) {
        sem_destroy(&((dispatch_semaphore_t)object)->count);
        free(object);
        return;
    }
    pthread_mutex_lock(&queue->lock); /* its thread frees it, when it has called what there is */
    queue->ending = 1;
    pthread_cond_signal(&queue->changed);
    pthread_mutex_unlock(&queue->lock);
}
