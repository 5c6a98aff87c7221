/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vmm_proto.h: the seam between the front (options, image, locks, rendering: GLib) and the VMM child
 * (KVM, ring, overlay, journal, commit: plain C, sandboxed).
 *
 * The front opens everything, forks, and calls vmm_child() in the child, which never returns. The
 * child says what happens as frames on msg_fd. The front trusts no frame: lengths are bounded here,
 * codes are looked up, and a child that dies without a last frame is "the VMM died".
 */
#ifndef VMM_PROTO_H
#define VMM_PROTO_H

#include <stdbool.h>
#include <stdint.h>

#include "vr_problems.h"

/* AUTO: KVM where a VM can be made, else a process; the child decides, and says so (VMM_MSG_ACCEL). */
enum vmm_accel { VMM_ACCEL_AUTO = 0, VMM_ACCEL_KVM = 1, VMM_ACCEL_PROCESS = 2 };

/* All descriptors are owned by the child once vmm_child() runs. -1 = not given. */
struct vmm_config {
    enum vr_mode mode;
    enum vmm_accel accel;
    int image_fd;         /* read-only for check, else read-write */
    int kvm_fd;           /* /dev/kvm, or -1 with VMM_ACCEL_PROCESS */
    int overlay_fd;       /* unlinked file or memfd for blocks the guest writes; -1 in check */
    int journal_fd;       /* empty file, read-write; -1 in check */
    uint64_t journal_max; /* bytes it may have; 0 = any number */
    int msg_fd;           /* write end of a pipe: frames to the front */
    int ctl_fd;           /* read end of a pipe: VMM_CTL_COMMIT answers VMM_MSG_READY; any other byte, or the end, is abort */
    uint64_t image_size;  /* bytes, as the front measured it */
    bool image_is_device;
    bool force_leaks;     /* free leaks after an incomplete walk too */
    bool data_file;       /* the caller names the external data file */
    bool would;           /* a check also says what the modes that repair would do */
    uint64_t memory;      /* budget for guest and VMM together, bytes */
    uint32_t uid, gid;    /* whom the child runs as from its first step on; uid 0 = as whom it was forked */
    unsigned timeout;     /* seconds without progress after which the guest is killed; 0 = never */
    uint32_t examples;    /* records wanted for each problem */
    char image_name[256]; /* for the journal's header, truncated */
    char image_identity[160]; /* the same: undo_name.c */
    const void *guest_elf;   /* tests: another guest than the embedded one; NULL = the embedded one */
    uint64_t guest_elf_size;
};

/* Frame: header, then len bytes. */
struct vmm_msg {
    uint32_t type; /* enum vmm_msg_type */
    uint32_t len;  /* 0..VMM_MSG_MAX */
};
#define VMM_MSG_MAX 65536u

enum vmm_msg_type {
    VMM_MSG_RECORDS = 1,  /* array of struct vr_record */
    VMM_MSG_PROGRESS = 2, /* struct vmm_progress */
    VMM_MSG_COMMIT = 3,   /* struct vmm_commit: once when it begins, once when it ends */
    VMM_MSG_SUMMARY = 4,  /* struct vr_summary; the guest's last word */
    VMM_MSG_STATS = 5,    /* struct vmm_stats; after SUMMARY or FAIL, always last */
    VMM_MSG_FAIL = 6,     /* struct vmm_fail; instead of SUMMARY */
    VMM_MSG_ACCEL = 7,    /* struct vmm_no_kvm: the first frame, where VMM_ACCEL_AUTO became a process */
    VMM_MSG_READY = 8,    /* no body: a repair is planned and journalled, and waits to be allowed to write */
};

/* The answer to it. */
#define VMM_CTL_COMMIT 'c'

/* Why no VM could be made. */
struct vmm_no_kvm {
    int32_t error; /* errno, or 0 where text says all */
    char text[60]; /* what failed: printable ASCII, NUL-terminated */
};

struct vmm_progress {
    uint32_t walk; /* enum vr_walk */
    uint32_t pass; /* enum vr_pass */
    uint32_t done, total;
};

struct vmm_commit {
    uint32_t state;         /* 0 begins, 1 done, 2 failed and rolled back, 3 failed and NOT rolled back */
    int32_t error;          /* errno of the failure, else 0 */
    uint64_t bytes_changed; /* of the plan, once it is done; else those of sectors that were written */
    uint64_t bytes_journal;
};

/* Why a run failed. The front has one sentence for each. */
enum vmm_fail_kind {
    VMM_FAIL_GUEST_CRASH = 1,   /* triple fault: the repairer crashed */
    VMM_FAIL_GUEST_HANG = 2,    /* no progress for `timeout` seconds */
    VMM_FAIL_GUEST_PROTOCOL = 3,/* a ring request broke the rules */
    VMM_FAIL_GUEST_PANIC = 4,   /* its own last words, in text */
    VMM_FAIL_GUEST_IMAGE = 5,   /* embedded guest image damaged or of another ABI version */
    VMM_FAIL_KVM = 6,           /* KVM refused something */
    VMM_FAIL_MEMORY = 7,        /* budget too small to start */
    VMM_FAIL_READ = 8,          /* reading the image failed */
    VMM_FAIL_JOURNAL = 9,       /* writing the journal failed: nothing of the image was touched */
    VMM_FAIL_WRITE = 10,        /* writing the image failed */
    VMM_FAIL_OVERLAY = 11,      /* the overlay's file is full or broken */
    VMM_FAIL_ABORTED = 12,      /* asked to stop; after COMMIT state 1 the repair stands, only the last walk is missing */
    VMM_FAIL_SANDBOX = 13,      /* the sandbox could not be set up: not run without it */
    VMM_FAIL_INTERNAL = 14,     /* anything else; text says what */
};
struct vmm_fail {
    uint32_t kind;  /* enum vmm_fail_kind */
    int32_t error;  /* errno or 0 */
    char text[240]; /* printable ASCII, NUL-terminated, may be empty */
};

struct vmm_stats {
    uint64_t bytes_read;    /* from the image */
    uint64_t bytes_written; /* to the image */
    uint64_t requests;      /* on the ring */
    uint64_t exits;         /* doorbells and other returns from KVM_RUN */
    uint64_t us_start;      /* microseconds from vmm_child() to the first guest instruction */
    uint64_t us_guest;      /* from there to the last frame */
    uint64_t us_boot;       /* of that, before the guest's first request */
    uint64_t us_read;       /* reading the image, all threads together: most of it goes on beside the guest */
    uint64_t us_pass[VR_WALK_COUNT][VR_PASS_COUNT]; /* [0]: before the first that tells how far it is */
    uint64_t us_commit;
    uint64_t peak_overlay;  /* bytes */
    uint64_t read_offset;   /* of the first read of the image that failed */
    uint32_t read_len;
    int32_t read_error;     /* its errno; 0 = none did */
};

/*
 * Child main: sandbox, guest, ring, commit. Writes frames, then _exit()s with 0 (a SUMMARY was sent) or 1.
 * Calls no GLib. The caller has just forked and has no other threads.
 */
void vmm_child(const struct vmm_config *cfg) __attribute__((noreturn));

#endif
