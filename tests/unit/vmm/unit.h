/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* unit.h: what the unit tests of the VMM child share: cmocka, random numbers, files in memory. */
#ifndef VMM_UNIT_H
#define VMM_UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "vmm.h"
#include "common.h"
#include "journal_format.h"

/* xorshift64*: the same numbers in every run. */
static inline uint64_t unit_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * UINT64_C(0x2545f4914f6cdd1d);
}

static inline void unit_fill(uint64_t *state, uint8_t *bytes, size_t len)
{
    for (size_t i = 0; i < len; i++)
        bytes[i] = (uint8_t)(unit_random(state) >> 56);
}

/* A file in memory with these bytes. */
static inline int unit_file(const void *bytes, size_t len)
{
    int fd = memfd_create("unit", MFD_CLOEXEC);

    assert_true(fd >= 0);
    if (len)
        assert_int_equal(pwrite_all(fd, bytes, len, 0), 0);
    return fd;
}

#endif
