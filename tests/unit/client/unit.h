/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* unit.h: cmocka, with what it wants to be included before it. */
#ifndef CLIENT_UNIT_H
#define CLIENT_UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#endif
