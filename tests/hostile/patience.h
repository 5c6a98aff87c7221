/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* patience.h: limits of time that scale with the machine: VR_PATIENCE of tests/patience.py. */
#ifndef PATIENCE_H
#define PATIENCE_H

#include <stdlib.h>

#define PATIENCE_MOST 40.0

/* What is far more than enough on an idle machine, in seconds, for this one. */
static inline unsigned patience(unsigned seconds)
{
    const char *text = getenv("VR_PATIENCE");
    double factor = text ? atof(text) : 1;

    if (!(factor >= 1))
        factor = 1;
    return (unsigned)(seconds * (factor < PATIENCE_MOST ? factor : PATIENCE_MOST));
}

#endif
