/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* start.S: first instruction of the guest (ring 3, stack ready), its ABI note, and a stop where main returns. */
    .section .note.vr, "a", @note
    .align 4
    .long 3             /* name size: "VR" and NUL */
    .long 4             /* descriptor size */
    .long 1             /* VR_NOTE_TYPE */
    .asciz "VR"
    .align 4
    .long 5             /* VR_ABI_VERSION; start.c asserts that it is still 5 */

    .text
    .globl _start
    .type _start, @function
_start:
    xorl %ebp, %ebp
    xorl %edi, %edi     /* base: guest memory starts at address 0 */
    andq $-16, %rsp
    call vr_guest_main
    ud2                 /* FINISH never returns: anything here is a crash, and named as one */
    .size _start, . - _start
    .section .note.GNU-stack, "", @progbits
