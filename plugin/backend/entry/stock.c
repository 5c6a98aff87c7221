/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * stock.c: the stock functions behind our entry points, for each type of pool that is served.
 */
#include "entry.h"

/* What became of each type of pool; never changes after the start. */
static struct {
    const struct backend_table *table; /* NULL = left alone */
    struct stock_slots slots;
} served[POOL_TYPE_COUNT];

void stock_keep(size_t which, const struct backend_table *table, const struct stock_slots *slots)
{
    served[which].table = table;
    served[which].slots = *slots;
}

const struct stock_slots *stock_of(const char *pool_type)
{
    size_t which = pool_type_find(pool_type);

    if (which < POOL_TYPE_COUNT && served[which].table)
        return &served[which].slots;
    vr_error(VIR_ERR_INTERNAL_ERROR, "vol-repair knows no pool type '%s'", pool_type ? pool_type : "");
    return NULL;
}

static bool is_in_use(size_t which)
{
    const struct backend_table *table = served[which].table;
    bool ours = table && lv.backend_for_type(table->type) == table &&
                table->slot[SLOT_DOWNLOAD_VOL] == (void *)stream_download_vol;

    virResetLastError();
    return ours;
}

void stock_append_types(GString *xml)
{
    for (size_t i = 0; i < POOL_TYPE_COUNT; i++) {
        if (is_in_use(i))
            g_string_append_printf(xml, "<type name='%s'/>", pool_type_name[i]);
    }
}
