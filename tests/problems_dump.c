/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* problems_dump: prints the problem table as JSON, for tests and docs; the compiler is the only parser. */
#include <stdio.h>

#include "vr_problems.h"

static void put_string(const char *key, const char *text, const char *end)
{
    printf("\"%s\": \"", key);
    for (; *text; text++) {
        if (*text == '"' || *text == '\\' || *text == '\n')
            putchar('\\');
        putchar(*text == '\n' ? 'n' : *text);
    }
    printf("\"%s", end);
}

int main(void)
{
    const char *comma = "";

    printf("[");
#define VR_PROBLEM(sym, code, sev, pol, flags, order, slug, spec, qemu, msg)                    \
    printf("%s\n{\"code\": %d, \"pass\": %d, \"flags\": %u, \"order\": %d, ", comma, code,      \
           (code) >> 12, flags, order);                                                         \
    put_string("symbol", #sym, ", ");                                                           \
    put_string("severity", #sev, ", ");                                                         \
    put_string("policy", #pol, ", ");                                                           \
    put_string("slug", slug, ", ");                                                             \
    put_string("spec", spec, ", ");                                                             \
    put_string("qemu", qemu, ", ");                                                             \
    put_string("message", msg, "}");                                                            \
    comma = ",";
#include "vr_problems.def"
#undef VR_PROBLEM
    printf("\n]\n");
    return 0;
}
