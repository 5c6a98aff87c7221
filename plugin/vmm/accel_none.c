/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * accel_none.c: in place of accel_kvm.c and load.c on processors that no guest is built for. The front makes no VM then; what
 * asks for one all the same is told why there is none.
 */
#include <errno.h>

#include "vmm.h"

static const char no_guest[] = "this build has no guest for the processor";

const char *vm_open(struct child *c)
{
    (void)c;
    errno = 0;
    return no_guest;
}

void vm_prepare(struct child *c)
{
    child_fail(c, VMM_FAIL_KVM, 0, no_guest);
}

void vm_run(struct child *c)
{
    child_fail(c, VMM_FAIL_KVM, 0, no_guest);
}

const char *load_guest(const void *elf, uint64_t size, uint8_t *memory, struct load *l)
{
    (void)elf;
    (void)size;
    (void)memory;
    *l = (struct load){0};
    return no_guest;
}

const void *load_embedded(uint64_t *size)
{
    *size = 0;
    return NULL;
}
