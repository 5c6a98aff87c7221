/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* fake_child.h: a VMM child that says what a test wants it to say. */
#ifndef FAKE_CHILD_H
#define FAKE_CHILD_H

#include "vmm_proto.h"

/* Runs in the forked child, instead of a guest; returns the exit status. */
extern int (*fake_script)(const struct vmm_config *cfg);

void fake_send(const struct vmm_config *cfg, uint32_t type, const void *body, uint32_t len);
/* A header whose body never comes, or is of another length. */
void fake_send_header(const struct vmm_config *cfg, uint32_t type, uint32_t len);
struct vr_summary fake_summary(void);

#endif
