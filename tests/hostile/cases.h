/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* cases.h: the names of all attacks; the guest is told which one by the boot information's field "examples". */
#ifndef HOSTILE_CASES_H
#define HOSTILE_CASES_H

/* Against the processor's walls: guest_fault.c. */
#define FAULT_CASES(X) \
    X(ud2) X(divide_error) X(page0_read) X(tables_read) X(directory_read) X(gdt_read) X(tss_write) X(boot_write) \
    X(text_write) X(rodata_write) X(ring_execute) X(data_execute) X(heap_execute) X(stack_execute) X(heap_beyond) \
    X(stack_overflow) X(gap_read) X(between_ring_and_image) X(mmio_read) X(high_half) X(non_canonical) X(hlt) X(cli) \
    X(port_other) X(port_low) X(port_high) X(port_byte) X(port_word) X(port_in) X(port_straddle) \
    X(syscall) X(sysenter) X(int80) X(int3) X(lgdt) X(lidt) X(wrmsr) X(mov_cr3) X(far_call) X(return_from_main) \
    X(endless_loop) X(ring_nothing_forever) X(read_forever)

/* Against the ring: guest_ring.c. */
#define RING_CASES(X) \
    X(op_zero) X(op_unknown) X(reserved_set) X(read_zero) X(read_long) X(read_huge) X(offset_over) X(offset_end_over) \
    X(offset_wrap) X(buf_null) X(buf_tables) X(buf_boot) X(buf_ring) X(buf_text) X(buf_rodata) X(buf_gap) \
    X(buf_stack_below) X(buf_stack_into_heap) X(buf_data_end) X(buf_heap_end) X(buf_heap_after) X(buf_wrap) \
    X(buf_stack_wrap) X(write_check) X(write_buf_text) X(write_behind) X(write_behind_far) X(write_zero) \
    X(write_epoch) X(write_earlier_epoch) X(write_after_commit) X(size_check) X(size_shrink) X(size_large) \
    X(size_wrap) X(size_device) X(size_after_commit) X(commit_check) X(commit_twice) X(records_flood) X(records_none) \
    X(records_uneven) X(records_many) X(records_huge) X(records_buf) X(progress_walk) X(progress_pass) \
    X(next_data_len) X(next_data_offset) X(next_data_buf) \
    X(progress_pass_zero) X(progress_done) X(summary_short) X(summary_long) X(summary_buf) X(wait_idle) X(wait_more) \
    X(wait_far) X(tail_far) X(tail_back) X(panic_words) X(panic_controls) X(panic_most) X(panic_long) X(panic_buf)

/* Odd, and allowed: guest_ring.c. They finish with a summary. */
#define LEGAL_CASES(X) \
    X(heap_exact_end) X(stack_exact) X(data_exact) X(offset_last) X(read_behind_end) X(change_after_post) X(full_ring) \
    X(indices_wrong_in_ring) X(record_unknown) X(port_string) X(claims_commit) X(size_grow) X(epochs) X(commit_nothing) \
    X(wait_opposite)

#define HOSTILE_CASES(X) FAULT_CASES(X) RING_CASES(X) LEGAL_CASES(X)

#define HOSTILE_MARK 0x4b4fu /* summary.heap_used of a case that came to its end */

#endif
