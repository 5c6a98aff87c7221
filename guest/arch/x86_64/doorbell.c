/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* doorbell.c: the one instruction that leaves the VM. */
#include "boot.h"

void vr_doorbell(uint32_t want)
{
    __asm__ volatile("outl %%eax, %%dx" : : "a"(want), "d"((uint16_t)VR_PORT_DOORBELL) : "memory");
}
