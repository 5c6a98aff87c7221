/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vmm.h: the parts of the VMM child, a section a file. Plain C, fail-stop, one run and then gone.
 *
 * The way of a request: accel_kvm.c or accel_process.c sees the doorbell, ring.c copies and checks the request, block.c reads
 * and overlay.c keeps what is written, commit.c alone writes to the image.
 */
#ifndef VMM_H
#define VMM_H

#include <pthread.h>
#include <stdatomic.h>

#include "overlay.h"
#include "vmm_proto.h"

/* ---- commit.c: the only writer of the image -------------------------------------------------------------- */

struct child;
/* Everything the overlay holds goes to the image, or nothing. */
enum vr_status commit_run(struct child *c);

/* ---- block.c: image I/O, several requests at a time -------------------------------------------------------- */

#define BLOCK_THREADS 2u

struct block_job {
    uint64_t offset;
    void *buf;
    uint32_t len;
    uint32_t id;
};

struct block {
    struct child *child;
    pthread_t threads[BLOCK_THREADS];
    pthread_mutex_t lock;
    pthread_cond_t work, idle;
    struct block_job queue[VR_RING_ENTRIES];
    unsigned head, tail, busy;
};

/* Threads are made here, before the sandbox forbids it. 0 or -errno. */
int block_start(struct block *b, struct child *child);
void block_read(struct block *b, const struct block_job *job);
/* Do it at once, on this thread. */
void block_read_now(struct block *b, const struct block_job *job);
void block_drain(struct block *b);

/* ---- ring.c: requests of a hostile guest -------------------------------------------------------------------- */

#define RING_RECORDS_MAX 4000000u /* in one run; more is a flood, and a violation */


struct ring {
    struct child *child;
    struct vr_ring *shared;
    uint32_t sq_head;     /* ours; the guest's tail is only ever compared with it */
    uint32_t cq_tail;     /* under lock */
    uint32_t cq_seen;     /* cq_tail at the last doorbell */
    uint32_t outstanding; /* under lock */
    uint64_t records, requests;
    bool committed;
    pthread_mutex_t lock;
    pthread_cond_t completed;
};

void ring_open(struct ring *r, struct child *child, struct vr_ring *shared);
/* The doorbell; does not return where the run is over. */
void ring_doorbell(struct ring *r, uint32_t want);
void ring_complete(struct ring *r, uint32_t id, enum vr_status status);

/* ---- load.c: the guest image ---------------------------------------------------------------------------------- */

#define LOAD_SEGMENTS_MAX 8u

struct load_segment {
    uint64_t start, end; /* guest addresses, page aligned */
    bool write, execute;
};

struct load {
    uint64_t entry;
    struct load_segment segments[LOAD_SEGMENTS_MAX];
    unsigned nsegments;
};

/* Checks an ELF image; memory = guest address 0, where its segments are copied to. NULL, or what is wrong with it. */
const char *load_guest(const void *elf, uint64_t size, uint8_t *memory, struct load *l);
/* The image that was built into this program. NULL where its checksum is wrong. */
const void *load_embedded(uint64_t *size);

/* ---- accel_kvm.c, accel_process.c: where the guest runs -------------------------------------------------------------- */

/* Makes an empty VM. NULL, or what KVM lacks or refused, with errno (0: the words say all); nothing is left then. */
const char *vm_open(struct child *c);
/* Sets up; after it only run() is called. Does not return where it failed: the failure was reported. */
void vm_prepare(struct child *c);
void vm_run(struct child *c) __attribute__((noreturn));
#define VM_SIGNATURE 12u /* bytes, of a hypervisor in CPUID */
/* The type of the task state segment in TR, by what CPUID says of the host: is it a guest itself, and whose? */
uint8_t vm_tss_type(bool hypervisor, const char signature[VM_SIGNATURE]);
/* Where KVM may put a page of its own: the first page behind the guest's memory. */
uint64_t vm_identity_map(uint64_t memory_size);
void process_prepare(struct child *c);
/* Ends the guest's process, where there is one, and waits for it. */
void process_end(struct child *c);
void process_run(struct child *c) __attribute__((noreturn));

/* ---- sandbox.c ---------------------------------------------------------------------------------------------------- */

/* Closes every descriptor but those of the configuration and the accelerator's. */
void sandbox_close_others(const int *keep, unsigned n);
/* Another user (uid 0: no other), no new privileges, no capabilities, limits. Before threads are made. 0 or -errno. */
int sandbox_drop(uint32_t uid, uint32_t gid);
/* The most bytes of addresses, and of a file. Where all memory and all threads are there. 0 or -errno. */
int sandbox_limit(uint64_t memory, uint64_t file);
/* The system call filter, for all threads. guest_pid: of the process accelerator's child, else 0. 0 or -errno. */
int sandbox_filter(enum vmm_accel accel, int guest_pid);
/* For the process accelerator's own child: two descriptors to read and write, and the way out. */
int sandbox_filter_guest(int read_fd, int write_fd);

/* ---- main.c --------------------------------------------------------------------------------------------------------- */

struct child {
    const struct vmm_config *cfg;
    uint8_t *memory;       /* guest address 0 */
    uint64_t memory_size;
    uint64_t heap_size;
    struct load load;
    struct overlay overlay;
    uint64_t planned;      /* bytes of the plan that is committed */
    struct block block;
    struct ring ring;
    struct vmm_stats stats;
    atomic_uint_fast64_t bytes_read, us_read;
    uint64_t started_us, guest_us;
    uint64_t *phase;       /* of stats: what the time since phase_us is to be added to, or NULL */
    uint64_t phase_us;
    /* accelerators */
    enum vmm_accel accel;  /* the one that was chosen, never AUTO */
    struct cpuid {
        int kvm_fd, err;
        pthread_t thread;
        struct kvm_cpuid2 *id;
    } cpuid;               /* the host's own, asked beside the making of the VM: each leaf may be an exit of the host itself */
    int vm_fd, vcpu_fd;
    struct kvm_run *run;
    int bell_fd, resume_fd, guest_pid;
    /* watchdog */
    pthread_t runner;      /* the thread that runs the guest */
    pthread_barrier_t ready; /* every thread has begun: what the C library does for a new one is behind it */
    atomic_int stop;       /* enum vmm_fail_kind of a reason to stop the guest, 0 = none */
    atomic_bool in_guest;
    atomic_bool committing;
    pthread_mutex_t lock;  /* of the front's answer */
    pthread_cond_t answered;
    bool may_commit;
    atomic_uint_fast64_t last_bell_us; /* the last doorbell with which anything went on */
    pthread_mutex_t reading_lock;    /* of what follows: whether the runner waits for the image, and since when, or since the
                                      * last of several reads that came back */
    bool reading;
    uint64_t read_us;
    int failed;            /* the exit status */
};

uint64_t child_now_us(void);
/* From now on, time is spent on this one of c->stats. */
void child_phase(struct child *c, uint64_t *phase);
/* A frame to the front; where the front is gone, an abort. */
void child_send(struct child *c, uint32_t type, const void *body, uint32_t len);
/* The guest's summary was sent, or the run failed: stats, and gone. */
void child_end(struct child *c) __attribute__((noreturn));
void child_fail(struct child *c, enum vmm_fail_kind kind, int error, const char *text) __attribute__((noreturn));
/* Asks the front, and waits; returns where the image may be written to. */
void child_ask_to_commit(struct child *c);
/* Around what waits for reads of the image: a disk or a server that does not answer ends the run after the timeout. */
void child_read_waits(struct child *c, bool waits);
/* Called where the guest is not running: ends the run if the watchdog wants it. */
void child_check_stop(struct child *c);

#endif
