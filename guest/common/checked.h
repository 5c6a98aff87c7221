/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* checked.h: overflow-safe arithmetic and big-endian loads; every number from an image passes through here. */
#ifndef VR_CHECKED_H
#define VR_CHECKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* True where a + b (a * b) does not fit; *r is then not to be used. */
#define vr_add_overflows(a, b, r) __builtin_add_overflow((a), (b), (r))
#define vr_mul_overflows(a, b, r) __builtin_mul_overflow((a), (b), (r))

/* a / 2^bits, rounded up, without overflow. */
static inline uint64_t vr_ceil_shift(uint64_t a, unsigned bits)
{
    return (a >> bits) + ((a & ((UINT64_C(1) << bits) - 1)) != 0);
}

static inline uint64_t vr_max(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static inline uint64_t vr_min(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static inline uint32_t vr_load16(const uint8_t *p)
{
    return (uint32_t)p[0] << 8 | p[1];
}

static inline uint32_t vr_load32(const uint8_t *p)
{
    uint32_t v;
    __builtin_memcpy(&v, p, sizeof(v));
    return __builtin_bswap32(v);
}

static inline uint64_t vr_load64(const uint8_t *p)
{
    uint64_t v;
    __builtin_memcpy(&v, p, sizeof(v));
    return __builtin_bswap64(v);
}

static inline void vr_store64(uint8_t *p, uint64_t v)
{
    v = __builtin_bswap64(v);
    __builtin_memcpy(p, &v, sizeof(v));
}

static inline void vr_store32(uint8_t *p, uint32_t v)
{
    v = __builtin_bswap32(v);
    __builtin_memcpy(p, &v, sizeof(v));
}

#endif
