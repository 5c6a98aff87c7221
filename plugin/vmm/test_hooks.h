/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * test_hooks.h: where tests cut a repair short. Only vol-repair-test, which is not installed, is built with VR_TEST_HOOKS; in
 * vol-repair nothing of this is left.
 */
#ifndef TEST_HOOKS_H
#define TEST_HOOKS_H

#ifdef VR_TEST_HOOKS

#include <stdbool.h>
#include <stdint.h>

/* Takes the options --test-... out of the command line; ends the process where one is not understood. */
void hook_options(int *argc, char **argv);
/* After each write to the image. May end the process. */
void hook_written(void);
/* Whether the next sector of this epoch does not reach the disk. */
bool hook_sector_is_lost(void);
/* The epoch is written, and not flushed. May end the process. */
void hook_epoch_written(void);
/* In the front: a signal ended the VMM child. May end the process. */
void hook_child_died(void);
/* More of VR_BOOT_... */
uint32_t hook_boot_flags(void);

#else

#define hook_options(argc, argv) ((void)0)
#define hook_written()           ((void)0)
#define hook_sector_is_lost()    false
#define hook_epoch_written()     ((void)0)
#define hook_child_died()        ((void)0)
#define hook_boot_flags()        0u

#endif

#endif
