/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* crc32c.c: CRC32C (Castagnoli), by the processor's instruction where it has one. */
#include "common.h"

#include <string.h>

__attribute__((target("sse4.2"))) static uint32_t by_instruction(uint32_t crc, const uint8_t *p, size_t len)
{
    uint64_t c = crc;

    for (; len >= 8; p += 8, len -= 8) {
        uint64_t v;
        memcpy(&v, p, sizeof(v));
        c = __builtin_ia32_crc32di(c, v);
    }
    for (; len > 0; p++, len--)
        c = __builtin_ia32_crc32qi((uint32_t)c, *p);
    return (uint32_t)c;
}

static uint32_t by_bits(uint32_t crc, const uint8_t *p, size_t len)
{
    for (; len > 0; p++, len--) {
        crc ^= *p;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (0x82f63b78u & -(crc & 1));
    }
    return crc;
}

uint32_t crc32c(uint32_t crc, const void *bytes, size_t len)
{
    crc = ~crc;
    return ~(__builtin_cpu_supports("sse4.2") ? by_instruction(crc, bytes, len) : by_bits(crc, bytes, len));
}
