/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* crc_step.h: x86-64's instructions for CRC32C, which came with SSE4.2. */
#ifndef CRC_STEP_H
#define CRC_STEP_H

#include <stdbool.h>
#include <stdint.h>

#define CRC_STEP __attribute__((target("sse4.2")))

static inline bool crc_step_here(void)
{
    return __builtin_cpu_supports("sse4.2");
}

CRC_STEP static inline uint32_t crc_step_8(uint32_t crc, uint64_t bytes)
{
    return (uint32_t)__builtin_ia32_crc32di(crc, bytes);
}

CRC_STEP static inline uint32_t crc_step_1(uint32_t crc, uint8_t byte)
{
    return __builtin_ia32_crc32qi(crc, byte);
}

#endif
