/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* lock_holder.c: takes our locks on an image, says so, and holds them until its standard input ends. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"

int main(int argc, char **argv)
{
    g_autoptr(GError) error = NULL;
    bool repair = argc == 3 && strcmp(argv[1], "repair") == 0;
    int fd = argc == 3 ? open(argv[2], repair ? O_RDWR : O_RDONLY) : -1;

    if (fd < 0)
        return 2;
    if (!lock_take(fd, repair ? LOCK_REPAIR : LOCK_CHECK, argv[2], &error)) {
        printf("%s\n", error->message);
        return 1;
    }
    printf("held\n");
    fflush(stdout);
    while (getchar() != EOF)
        continue;
    return 0;
}
