/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* guest_image.h: the guest's ELF image as built into the program (guest_image.c is made by embed.py). */
#ifndef GUEST_IMAGE_H
#define GUEST_IMAGE_H

#include <stdint.h>

extern const uint8_t vr_guest_image[];
extern const uint64_t vr_guest_image_size;
extern const uint32_t vr_guest_image_crc; /* CRC32C */

#endif
