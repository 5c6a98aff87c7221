#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# embed.py: turns the guest's ELF image into C, with its CRC32C: embed.py GUEST.elf OUT.c
import sys


def crc32c(data):
    table = []
    for n in range(256):
        for _ in range(8):
            n = n >> 1 ^ (0x82F63B78 if n & 1 else 0)
        table.append(n)
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


with open(sys.argv[1], "rb") as elf:
    data = elf.read()
with open(sys.argv[2], "w", encoding="ascii") as out:
    out.write("/* made by embed.py */\n#include \"guest_image.h\"\n\n")
    out.write(f"const uint64_t vr_guest_image_size = {len(data)};\n")
    out.write(f"const uint32_t vr_guest_image_crc = {crc32c(data):#x}u;\n")
    out.write("const uint8_t vr_guest_image[] = {\n")
    for at in range(0, len(data), 24):
        out.write("    " + "".join(f"{b}," for b in data[at:at + 24]) + "\n")
    out.write("};\n")
