/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* crc_step.h: ARMv8's instructions for CRC32C, which version 8.0 leaves to the maker. */
#ifndef CRC_STEP_H
#define CRC_STEP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/auxv.h>

#define CRC_STEP
#define HWCAP_OF_CRC32 (1u << 7) /* asm/hwcap.h */

static inline bool crc_step_here(void)
{
    return getauxval(AT_HWCAP) & HWCAP_OF_CRC32;
}

/* In assembly: gcc and clang have different names for the built-in function, and for the target that allows it. */
static inline uint32_t crc_step_8(uint32_t crc, uint64_t bytes)
{
    __asm__(".arch_extension crc\n\tcrc32cx %w0, %w0, %x1" : "+r"(crc) : "r"(bytes));
    return crc;
}

static inline uint32_t crc_step_1(uint32_t crc, uint8_t byte)
{
    __asm__(".arch_extension crc\n\tcrc32cb %w0, %w0, %w1" : "+r"(crc) : "r"((uint32_t)byte));
    return crc;
}

#endif
