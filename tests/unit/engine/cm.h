/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* cm.h: cmocka with the headers it wants before itself. */
#ifndef CM_H
#define CM_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#endif
