/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* fuzz.h: what the fuzz targets share: libFuzzer's interface, and a way to fail with a sentence. */
#ifndef FUZZ_H
#define FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max);

/* A rule that must hold for every input. */
#define HOLD(condition, rule)                                                                                          \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "rule broken: %s\n", rule);                                                                \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

static inline uint32_t fuzz_random(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

#endif
