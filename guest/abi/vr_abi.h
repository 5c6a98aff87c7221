/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vr_abi.h: all that guest and VMM share: memory map, boot information, the block ring.
 *
 * Rules (docs/architecture.md, "The wire"):
 *  - one version integer; guest and VMM are equal or the run is refused, there is no silent growth;
 *  - only fixed-width integers, natural alignment, reserved fields are zero and are checked;
 *  - a guest address is a one-member struct, so the host cannot dereference it by accident;
 *  - field comments start with who writes: in = the guest, out = the VMM;
 *  - the VMM copies a request once out of shared memory, then checks the copy;
 *  - nothing of the host (descriptor, path, pid) ever enters guest memory.
 */
#ifndef VR_ABI_H
#define VR_ABI_H

#include <stddef.h>
#include <stdint.h>

#define VR_ABI_VERSION 5u
#define VR_BOOT_MAGIC  0x544f4f4252565256ull /* "VRVRBOOT", little endian */

#define VR_ABI_SIZE(type, bytes) _Static_assert(sizeof(type) == (bytes), #type " changed its size")
#define VR_ABI_AT(type, field, at) \
    _Static_assert(offsetof(type, field) == (at), #type "." #field " moved")

/*
 * Guest memory. Linear address = guest-physical address. Below VR_GPA_BOOT lie the page tables, which are not
 * mapped, and the descriptor tables, which only the processor can read; page 0 is not mapped, nor
 * is anything that is not listed here. No page is both writable and executable.
 */
#define VR_GPA_BOOT      0x00100000u /* struct vr_boot, one page, read-only */
#define VR_GPA_RING      0x00101000u /* struct vr_ring, read-write          */
#define VR_GPA_IMAGE     0x00200000u /* the guest's ELF segments            */
#define VR_GPA_IMAGE_END 0x00600000u
#define VR_GPA_STACK     0x00780000u /* lowest stack byte; all below it up to VR_GPA_IMAGE_END is unmapped */
#define VR_GPA_STACK_END 0x00800000u
#define VR_GPA_HEAP      0x00800000u /* heap_size bytes, read-write         */

#define VR_PAGE_SIZE     4096u
#define VR_HEAP_ALIGN    (2u << 20) /* heap_size is a multiple of this */

#define VR_RING_ENTRIES  256u         /* power of two; also the most requests outstanding at once */
#define VR_IO_MAX        (2u << 20)   /* longest read or write, bytes */
#define VR_RECORDS_MAX   256u         /* most records in one request */
#define VR_PANIC_MAX     256u         /* longest last words, bytes */
#define VR_OFFSET_MAX    (UINT64_C(1) << 62) /* offset + len never passes this */
#define VR_GROWTH_MAX    (UINT64_C(64) << 20) /* set-size: at most image/8 + this more than the image had */

/*
 * The doorbell: `out %eax, VR_PORT_DOORBELL`. The VMM takes what was posted, and lets the guest run on
 * once cq_tail has reached eax (free-running index). An index that cq_tail has reached already only
 * starts what was posted; one that the outstanding requests cannot reach is a violation.
 */
#define VR_PORT_DOORBELL 0x5652u

typedef struct {
    uint64_t gpa;
} vr_gpa_t;

enum vr_mode { VR_MODE_CHECK = 1, VR_MODE_LEAKS = 2, VR_MODE_ALL = 3 };

/* Outcome of a request, and of the guest's own functions. Stored as int32_t on the wire. */
enum vr_status {
    VR_OK = 0,
    VR_EIO = -1,      /* the image could not be read or written */
    VR_ENOMEM = -3,   /* the arena is used up: raise --memory */
    VR_ELIMIT = -4,   /* the image asks for more than a stated limit */
    VR_ECANCELED = -6,/* the run was aborted before the commit */
    VR_EREFUSED = -7, /* a record says why nothing was done */
};

/* Boot information: filled by the VMM before the first instruction, read-only to the guest. */
struct vr_boot {
    uint64_t magic;      /* out  VR_BOOT_MAGIC */
    uint32_t version;    /* out  VR_ABI_VERSION */
    uint32_t mode;       /* out  enum vr_mode */
    uint64_t image_size; /* out  bytes in the image file or device */
    uint64_t heap_size;  /* out  bytes at VR_GPA_HEAP */
    uint32_t examples;   /* out  records wanted for each problem, 0..VR_EXAMPLES_MAX */
    uint32_t flags;      /* out  VR_BOOT_*  */
    uint64_t reserved[3];
};
#define VR_EXAMPLES_MAX 100000u
#define VR_BOOT_DEVICE       1u /* the image is a block device: its size cannot change */
#define VR_BOOT_FORCE_LEAKS  2u /* free what looks leaked even where the walk was incomplete, as qemu-img does */
#define VR_BOOT_DATA_FILE    16u /* the caller names the external data file, where there is one */
#define VR_BOOT_WIDE         8u /* tests: begin with a byte for each cluster, see struct vr_refmap */
#define VR_BOOT_WOULD        4u /* after a plain check, say what the modes that repair would do */
VR_ABI_SIZE(struct vr_boot, 64);

enum vr_op {
    VR_OP_READ = 1,     /* image -> buf; bytes past the end of the image read as zeros */
    VR_OP_WRITE = 2,    /* buf -> overlay; value = epoch */
    VR_OP_SET_SIZE = 4, /* offset = new size of the image as it would be; grows only */
    VR_OP_COMMIT = 5,   /* journal, then write the overlay to the image, epoch by epoch; once a run */
    VR_OP_RECORD = 6,   /* buf = array of struct vr_record */
    VR_OP_PROGRESS = 7, /* value = enum vr_walk << 8 | enum vr_pass; offset = done, total: see struct vr_sqe */
    VR_OP_FINISH = 8,   /* buf = struct vr_summary; the guest is stopped and never resumed */
    VR_OP_PANIC = 9,    /* buf = last words, printable ASCII; the guest is stopped */
    VR_OP_NEXT_DATA = 10, /* buf = uint64_t: where the next byte at or behind offset is that is not in a hole of the image file */
};

/*
 * Write epochs. The VMM puts the overlay into the image epoch after epoch with a flush between. A
 * sector (512 bytes) may have one version an epoch; a write into a sector that already has a
 * version in a later epoch is refused.
 */
enum vr_epoch {
    VR_EPOCH_MARK = 0,      /* the corrupt bit, mode all, before anything else changes */
    VR_EPOCH_STRUCTURE = 1, /* new structures, in space that nothing references */
    VR_EPOCH_POINTER = 2,   /* pointers to them, each within one sector */
    VR_EPOCH_INCREASE = 3,  /* refcounts that rise */
    VR_EPOCH_DECREASE = 4,  /* refcounts that fall, clusters that become free */
    VR_EPOCH_COPIED = 5,    /* L1 and L2 entries that follow from final refcounts */
    VR_EPOCH_CLEAN = 6,     /* dirty and corrupt bits, at the very end */
    VR_EPOCH_COUNT = 7,
};

/* Submission. Progress: offset = (done << 32 | total), both in the pass's own unit. */
struct vr_sqe {
    uint16_t op;       /* in  enum vr_op */
    uint16_t reserved; /* in  0 */
    uint32_t id;       /* in  the guest's own tag, returned in the completion */
    uint64_t offset;   /* in  image offset, bytes, any alignment */
    vr_gpa_t buf;      /* in  guest buffer: wholly inside image data, stack or heap */
    uint32_t len;      /* in  bytes */
    uint32_t value;    /* in  see enum vr_op */
};
VR_ABI_SIZE(struct vr_sqe, 32);
VR_ABI_AT(struct vr_sqe, buf, 16);

/* Completion. One for each submission, in any order. */
struct vr_cqe {
    uint32_t id;     /* out  tag of the request */
    int32_t status;  /* out  enum vr_status */
};
VR_ABI_SIZE(struct vr_cqe, 8);

/*
 * The ring. Indices run freely and are reduced modulo VR_RING_ENTRIES. The guest has at most
 * VR_RING_ENTRIES requests outstanding, so a completion always has room.
 */
struct vr_ring {
    uint32_t sq_tail; /* in   next submission the guest will fill */
    uint32_t pad0[15];
    uint32_t cq_tail; /* out  next completion the VMM will fill */
    uint32_t pad1[15];
    struct vr_sqe sq[VR_RING_ENTRIES];
    struct vr_cqe cq[VR_RING_ENTRIES];
};
VR_ABI_SIZE(struct vr_ring, 128 + VR_RING_ENTRIES * 40);
VR_ABI_AT(struct vr_ring, sq, 128);

/* The guest image carries this in an ELF note (name "VR", type 1): ABI version, checked before loading. */
#define VR_NOTE_NAME "VR"
#define VR_NOTE_TYPE 1u

#endif
