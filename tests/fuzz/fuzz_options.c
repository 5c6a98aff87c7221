/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* fuzz_options.c: the command line of vol-repair. Input: arguments, each ended by a NUL; the first may be an option string. */
#include <string.h>

#include "cli.h"
#include "fuzz.h"

#define ARGUMENTS_MAX 32

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree char *text = g_malloc0(size + 1);
    char *argv[ARGUMENTS_MAX + 2] = {(char *)"vol-repair"};
    g_autoptr(GError) error = NULL;
    struct options opt;
    int argc = 1;
    uint64_t bytes;

    memcpy(text, data, size);
    if (size_parse(text, &bytes))
        HOLD(bytes <= UINT64_C(1) << 50, "a size is at most a pebibyte");
    for (size_t at = 0; at < size && argc <= ARGUMENTS_MAX; at += strlen(text + at) + 1)
        argv[argc++] = text + at;
    bool ok = options_parse(&opt, argc, argv, &error);
    HOLD(ok == !error, "an error has words, and only an error");
    if (ok)
        HOLD(opt.path || opt.image_fd >= 0 || opt.show_help || opt.show_version, "an image is named");
    options_clear(&opt);
    return 0;
}
