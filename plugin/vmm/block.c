/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* block.c: reads of the image by a small pool of threads, so that several requests are in flight. */
#include <errno.h>

#include "vmm.h"

/* The guest's status has no room for it: the front says what was read, and why it could not be. */
static void note_error(struct child *c, const struct block_job *job, int error)
{
    pthread_mutex_lock(&c->ring.lock);
    if (!c->stats.read_error) {
        c->stats.read_error = error;
        c->stats.read_offset = job->offset;
        c->stats.read_len = job->len;
    }
    pthread_mutex_unlock(&c->ring.lock);
}

void block_read_now(struct block *b, const struct block_job *job)
{
    struct child *c = b->child;
    uint64_t before = child_now_us();
    int err = overlay_read(&c->overlay, job->buf, job->len, job->offset);

    if (err)
        note_error(c, job, -err);
    atomic_fetch_add(&c->us_read, child_now_us() - before);
    atomic_fetch_add(&c->bytes_read, job->len);
    ring_complete(&c->ring, job->id, err ? VR_EIO : VR_OK);
}

static void *work(void *arg)
{
    struct block *b = arg;

    pthread_barrier_wait(&b->child->ready);
    pthread_mutex_lock(&b->lock);
    for (;;) {
        if (b->head == b->tail) {
            pthread_cond_wait(&b->work, &b->lock);
            continue;
        }
        struct block_job job = b->queue[b->head++ % VR_RING_ENTRIES];
        b->busy++;
        pthread_mutex_unlock(&b->lock);
        block_read_now(b, &job);
        pthread_mutex_lock(&b->lock);
        b->busy--;
        if (b->busy == 0 && b->head == b->tail)
            pthread_cond_signal(&b->idle);
    }
    return NULL; /* never: threads end with the process */
}

int block_start(struct block *b, struct child *child)
{
    b->child = child;
    pthread_mutex_init(&b->lock, NULL);
    pthread_cond_init(&b->work, NULL);
    pthread_cond_init(&b->idle, NULL);
    for (unsigned i = 0; i < BLOCK_THREADS; i++) {
        int err = pthread_create(&b->threads[i], NULL, work, b);
        if (err)
            return -err;
    }
    return 0;
}

/* Never overflows: no more requests are outstanding than the queue has places. */
void block_read(struct block *b, const struct block_job *job)
{
    pthread_mutex_lock(&b->lock);
    b->queue[b->tail++ % VR_RING_ENTRIES] = *job;
    pthread_cond_signal(&b->work);
    pthread_mutex_unlock(&b->lock);
}

void block_drain(struct block *b)
{
    pthread_mutex_lock(&b->lock);
    while (b->busy || b->head != b->tail)
        pthread_cond_wait(&b->idle, &b->lock);
    pthread_mutex_unlock(&b->lock);
}
