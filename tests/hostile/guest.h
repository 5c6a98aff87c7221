/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* guest.h: what all attacks of the hostile guest use: addresses, the bare ring, and the ways out. */
#ifndef HOSTILE_GUEST_H
#define HOSTILE_GUEST_H

#include "boot.h"
#include "cases.h"

#define RING ((struct vr_ring *)VR_GPA_RING)
#define BOOT ((const volatile struct vr_boot *)VR_GPA_BOOT)
#define HEAP ((uint8_t *)VR_GPA_HEAP)

typedef void attack_fn(void);

#define DECLARE(name) attack_fn attack_##name;
HOSTILE_CASES(DECLARE)
#undef DECLARE

extern uint8_t data_page[VR_PAGE_SIZE]; /* the writable segment's last page */

/* One request into the ring, unchecked. */
void post(const struct vr_sqe *q);
/* Completions up to the last posted request. */
void wait_all(void);
/* post() and wait_all(); the status of that request. */
int32_t call(const struct vr_sqe *q);
/* A read of 512 bytes to the heap. */
struct vr_sqe good_read(void);
struct vr_sqe good_write(uint32_t epoch, uint64_t offset, uint8_t fill);
/* The end of a case that is allowed. */
void finish(void) __attribute__((noreturn));
/* A case that went wrong says so: it must not look like the expected end. */
void give_up(const char *words) __attribute__((noreturn));

#endif
