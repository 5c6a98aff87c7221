/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* fake_child.c: stands in for the VMM, so that the front is tested against frames that no real one sends. */
#include "fake_child.h"

#include <unistd.h>

int (*fake_script)(const struct vmm_config *cfg);

static void send_bytes(const struct vmm_config *cfg, const void *data, size_t len)
{
    if (write(cfg->msg_fd, data, len) != (ssize_t)len)
        _exit(70);
}

void fake_send_header(const struct vmm_config *cfg, uint32_t type, uint32_t len)
{
    struct vmm_msg msg = {.type = type, .len = len};

    send_bytes(cfg, &msg, sizeof(msg));
}

void fake_send(const struct vmm_config *cfg, uint32_t type, const void *body, uint32_t len)
{
    fake_send_header(cfg, type, len);
    if (len)
        send_bytes(cfg, body, len);
}

struct vr_summary fake_summary(void)
{
    return (struct vr_summary){.walks = 1u << VR_WALK_CHECK,
                               .total_clusters = 1024,
                               .image_end_offset = 262144,
                               .virtual_size = 64 << 20,
                               .qcow2_version = 3,
                               .cluster_bits = 16,
                               .refcount_bits = 16};
}

void vmm_child(const struct vmm_config *cfg)
{
    _exit(fake_script(cfg));
}
